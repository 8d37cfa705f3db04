"""Sphinx's settings: Markdown by MyST, the docstrings' sections by napoleon, one quiet look."""

from groundbass import __version__

project, author, release, version = "groundbass", "The groundbass maintainers", __version__, __version__
project_copyright = "The groundbass maintainers, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header", "misc.highlighting_failure"]  # README begins its sections where GitHub likes it
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_use_legacy_class_based = False
default_role = "code"  # docstrings put names between single backticks
add_module_names = False
html_theme = "furo"
html_title = f"groundbass {__version__}"
html_theme_options = {"navigation_with_keys": True}

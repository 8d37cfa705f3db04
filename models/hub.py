"""Pushing a published folder to the Hugging Face Hub, through huggingface_hub; every failure as one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

ATTEMPTS = 3
WEIGHTS = (".safetensors", ".bin", ".pt", ".ckpt", ".h5", ".onnx", ".gguf")


def check_push(name: str, sources: Sequence[str] = (), *, private: bool = False, force: bool = False) -> str:
    """Before anything is made: a well-formed name, a token that the Hub knows, a namespace that it may write to, and
    no other model in the repository, nor the public in one that shall be private.

    Args:
        name: ORG/NAME.
        sources: files by which an earlier upload of the same kind of model is known.
        private: whether it shall be private.
        force: a repository with another model in it is fine.

    Returns:
        The user's name.

    Raises:
        ValueError, OSError: with a sentence; a token is never in it.
    """
    owner, _, model = name.partition("/")
    if not owner or not model or "/" in model:
        raise ValueError(f"--push {name}: a name on the Hub is ORG/NAME.")
    token = get_token()
    if not token:
        raise ValueError(
            "There is no Hugging Face token: run `hf auth login`, or set HF_TOKEN, with a token that may write."
        )
    try:
        api = HfApi(token=token)
        account = api.whoami()
    except OfflineModeIsEnabled as error:
        raise OSError(f"--push {name}: HF_HUB_OFFLINE is set; unset it to upload.") from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise ValueError(
                "The Hub refuses the Hugging Face token: make a new one and run `hf auth login`."
            ) from None
        raise OSError(f"--push {name}: the Hub doesn't answer: {_clean(error, token)}") from None
    except Exception as error:  # a connection that fails raises what its library likes
        raise OSError(f"--push {name}: the Hub can't be reached: {_clean(error, token)}") from None
    names = {account["name"], *(org["name"] for org in account.get("orgs", []))}
    if owner not in names:
        raise ValueError(
            f"--push {name}: {account['name']} may write to {', '.join(sorted(names))}, and {owner} is someone else's."
        )
    _check_repository(api, name, sources, private, force)
    return str(account["name"])


def _check_repository(api: HfApi, name: str, sources: Sequence[str], private: bool, force: bool) -> None:
    """Refuse a repository that holds a model of another kind, or is public. One that isn't there is made later."""
    try:
        found = api.model_info(name)
    except Exception:  # the upload itself says what is wrong with it
        return
    files = {sibling.rfilename for sibling in found.siblings or []}
    if private and found.private is False and files - {".gitattributes"}:
        raise ValueError(
            f"--push {name} --private: that repository is there and is public; make it private on its settings page, "
            "or choose another name."
        )
    if not force and any(file.endswith(WEIGHTS) for file in files) and not files & set(sources):
        shown = ", ".join(sorted(files)[:4])
        raise ValueError(
            f"--push {name}: that repository holds another model already ({shown}); choose another name, or --force to "
            "write over it."
        )


def push(folder: Path, name: str, private: bool = False) -> str:
    """Upload a folder as one commit; the repository is made if need be. Returns its address.

    Files that the Hub has already aren't sent again, so an upload that broke off goes on when it is called again; it
    is, up to three times.

    Raises:
        OSError: the upload failed; the sentence says what to do.
    """
    token = get_token()
    api = HfApi(token=token)
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            try:
                api.repo_info(name)
            except RepositoryNotFoundError:
                api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Publish with groundbass")
            return f"{api.endpoint}/{name}"
        except (HFValidationError, OfflineModeIsEnabled) as error:
            reason = _clean(error, token)
            break
        except HfHubHTTPError as error:
            reason = _clean(error, token)
            if error.response is not None and 400 <= error.response.status_code < 500:
                break  # it would be refused again
        except Exception as error:  # a connection that breaks raises what its library likes
            reason = _clean(error, token)
    raise OSError(
        f"{folder} is complete, but uploading it to {name} failed: {reason} The same command with --push goes on with "
        "what is missing."
    )


def _clean(error: Exception, token: str | None) -> str:
    """The first line of a message, without the token."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0].strip()
    if token:
        text = text.replace(token, "…")
    return text if text.endswith(".") else text + "."

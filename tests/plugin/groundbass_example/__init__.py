"""What an installed package offers to groundbass."""

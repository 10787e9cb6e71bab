"""What the embedded base model is trained on and how. Not part of the installed package."""

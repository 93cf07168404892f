"""A trained ResNet goes in; a verified INT8 engine for every device comes out, with a receipt."""

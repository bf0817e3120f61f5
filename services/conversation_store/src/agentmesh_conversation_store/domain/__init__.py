"""What the store decides, without knowing how it is asked or where it is kept."""

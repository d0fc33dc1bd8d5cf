"""What an API over HTTP is made of, whatever it serves; claas's is made of it, too."""

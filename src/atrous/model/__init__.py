"""The networks: a backbone, a head and, where asked, several scales around them."""

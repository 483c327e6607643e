"""The networks: a backbone, a head and, on request, several scales or a CRF around them."""

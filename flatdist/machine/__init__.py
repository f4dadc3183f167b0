"""This process and the machine under it: optional packages, threads, provenance, and how Ray is imported."""

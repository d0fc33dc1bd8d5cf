"""CLaaS: feedback on answers becomes weights (see design_docs/claas.md)."""

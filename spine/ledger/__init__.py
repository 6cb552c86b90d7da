"""The log as a transparency log: trees over its partitions, signed heads, proofs, witnesses."""

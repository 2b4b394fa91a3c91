"""Keep a signed, tamper-evident record of every outcome."""

"""Who a caller is, by what they show: keys, tokens, certificates, headers of a trusted proxy."""

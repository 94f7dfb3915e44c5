"""Who a client is, and what it may do: password files, verified identities, access lists."""

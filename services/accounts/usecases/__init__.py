"""What can be done with accounts, by subject. Functions take the transaction that the edge opened."""

"""
Finds the people whom an offer may interest, says how many they are and why each of them.

It is for descriptions of people and the people found by them. It is not for showing anything to anybody (placement does
that), and nobody who withdrew consent is ever in what it gives.
"""

"""`bench`: do the selection strategies beat random, on many tasks, with the controls that the claim needs?"""

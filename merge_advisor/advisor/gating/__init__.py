"""`gate`: is a model no worse than another on rows and guards; and the same for each model that is added to a pool."""

"""Reading and writing of files of features, annotations and labels."""

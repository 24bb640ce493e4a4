"""A folder of own feature files with annotations in the format of ActivityNet."""

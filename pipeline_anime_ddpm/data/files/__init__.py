"""Which files a data set has, whatever holds them: a folder, a tar, a zip or a repository of the Hub."""

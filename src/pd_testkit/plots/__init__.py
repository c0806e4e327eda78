"""What measurements say, as pictures and as one page: read from the files that bench wrote."""

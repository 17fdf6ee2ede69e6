"""Guest programs and what the host does with them: building them, and the files that they read and write."""

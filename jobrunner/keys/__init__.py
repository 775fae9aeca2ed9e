"""Access to clusters: keys, invitations, and the files in which they are stored."""

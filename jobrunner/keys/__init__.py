"""Who may connect: keys, invitations, and the files in which they are kept."""

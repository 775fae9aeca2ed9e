"""What a person sees of it: tables in notebooks, and what calls print."""

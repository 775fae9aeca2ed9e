"""What other libraries need beyond an Executor. Nothing here is imported by the rest of the package."""

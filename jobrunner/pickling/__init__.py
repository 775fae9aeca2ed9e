"""What pickling and unpickling need, whatever is pickled: loading, errors, the modules that a pickle names."""

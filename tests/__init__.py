"""A regular package, because packages elsewhere on the path that are called `tests` would win over a
namespace."""

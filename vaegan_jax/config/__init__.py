"""The fields of a configuration, the command line, and the checks of both.

Owns the schema, configurations in files, flags, overrides, the configurations
of a study, and migrations from earlier versions. May import: `data`, `models`,
`names`, `errors`.
"""

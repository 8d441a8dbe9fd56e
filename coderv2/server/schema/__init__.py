"""What may come in over HTTP, a file per family of APIs. pydantic stays in this folder.

`null` counts as absent; fields not named here are ignored, and named in a debug log. Answers are plain dicts, which the
dialects write.
"""

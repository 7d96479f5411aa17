"""What a stranger's file holds, found from its bytes before any reader runs: nothing is executed or allocated by them.

`machine` walks a pickle's operations, `rules` and `tensor_rules` say what it may name and do, `archive` reads a zip's
directory, `header` that of a safetensors file. `converters.untrusted` puts them together.
"""

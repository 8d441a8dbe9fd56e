"""`coderv2 key`: a new key for a server, and what its file of keys keeps of it."""

import click


@click.command()
@click.argument("name")
def key(name: str) -> None:
    """Make a key for NAME: prints the key once, and the lines for the file that `serve --keys` reads."""
    from coderv2.server.keys import digest_of, new_key, toml_of

    if not name:
        raise click.UsageError("Give the key a name.", click.get_current_context())
    secret = new_key()
    click.echo(f"# The key, which is shown only now: {secret}", err=True)
    click.echo(toml_of(name, digest_of(secret)))

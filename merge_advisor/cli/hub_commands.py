"""The commands that talk to the hub: `pool find`, `card`, `push`."""

from __future__ import annotations

import sys
from typing import Any

from merge_advisor.cli.exit_codes import OK, PARTIAL
from merge_advisor.cli.messages import with_flags
from merge_advisor.cli.options import CardCommand, OutputOptions, PoolCommand, PushCommand
from merge_advisor.cli.parser import Arguments
from merge_advisor.cli.printing import flagged, print_result
from merge_advisor.cli.progress import reporting
from merge_advisor.cli.saying import say
from merge_advisor.errors import InputError
from merge_advisor.hub_options import CardOptions, FindOptions, PushOptions
from merge_advisor.report.document import Paragraph, Table, TextBlock


def pool(arguments: Arguments) -> int:
    """Return the exit code of `merge-advisor pool find`, run.

    Args:
        arguments: what was given.

    Raises:
        InputError: no base is named.
    """
    from merge_advisor.advisor.pool_listing import (
        check_manifest_place,
        download_text,
        found_json,
        found_table,
        write_pool,
    )
    from merge_advisor.advisor.pool_search import find_pool

    command, output = arguments.part(PoolCommand), arguments.part(OutputOptions)
    if command.base is None:
        raise InputError("no base named: give `base`, the hub id of the model whose finetunes are looked for")
    out = None if command.dry_run else command.out
    if out is not None:
        check_manifest_place(out, force=command.force)
    with reporting(output) as progress:
        found = find_pool(command.base, arguments.part(FindOptions), offline=command.offline, progress=progress)
    lines = [f"{len(found.models)} finetunes of {found.base}, by {found.ranked}", *found.notes, download_text(found)]
    lines += [f"left out: {item.id}: {item.reason}" for item in found.left_out]
    if out is not None:
        write_pool(found, out, force=command.force)
        lines.append(f"wrote {out}: {len(found.usable)} models; next: merge-advisor plan --pool {out} --task FILE")
    elif command.dry_run:
        lines.append("dry run: nothing was written")
    else:
        lines.append("nothing was written; `out=pool.yaml` writes them as a pool")
    blocks: list[TextBlock] = [found_table(found), Paragraph("\n".join(lines))]
    plain = {**found_json(found), "out": None if out is None else str(out)}
    print_result(output, plain, flagged(blocks, "pool"))
    for item in found.refused:
        say(f"set aside {with_flags(f'{item.id}: {item.reason}', 'pool')}")
    return PARTIAL if found.refused else OK


def card(arguments: Arguments) -> int:
    """Return the exit code of `merge-advisor card`, run.

    Args:
        arguments: what was given.
    """
    from merge_advisor.advisor.run_card import card_of_run
    from merge_advisor.whole_files import write_text

    command, output = arguments.part(CardCommand), arguments.part(OutputOptions)
    made = card_of_run(command.run, arguments.part(CardOptions), offline=command.offline)
    plain = {"card": made.text, "licence": made.licence, "notes": list(made.notes), "out": None}
    if command.out is not None:
        write_text(command.out, made.text)
        told = [Paragraph("\n".join([f"wrote {command.out}", *(f"note: {note}" for note in made.notes)]))]
        print_result(output, plain | {"out": str(command.out)}, flagged(told, "card"))
    elif output.json:
        print_result(output, plain, [])
    else:
        sys.stdout.write(made.text)  # as it is: it goes into a file
        for note in made.notes:
            say(f"note: {with_flags(note, 'card')}")
    return OK


def push(arguments: Arguments) -> int:
    """Return the exit code of `merge-advisor push`, run.

    Args:
        arguments: what was given.
    """
    from merge_advisor.advisor.pool_listing import size_text
    from merge_advisor.advisor.push_run import push_run

    command, output = arguments.part(PushCommand), arguments.part(OutputOptions)
    pushed = push_run(
        command.run, command.repo, arguments.part(PushOptions), dry_run=command.dry_run, offline=command.offline
    )
    rows = tuple((name, size_text(size)) for name, size in pushed.files.items())
    done = f"uploaded to {pushed.url} (commit {pushed.commit})" if pushed.commit else "dry run: nothing was uploaded"
    lines = [done, f"licence {pushed.card.licence}", *(f"note: {note}" for note in pushed.card.notes)]
    plain: dict[str, Any] = {
        "repo": pushed.repo, "url": pushed.url, "commit": pushed.commit, "files": pushed.files,
        "licence": pushed.card.licence, "card": pushed.card.text, "notes": list(pushed.card.notes),
    }  # fmt: skip
    print_result(output, plain, flagged([Table("", ("file", "size"), rows, (1,)), Paragraph("\n".join(lines))], "push"))
    return OK

"""Every message of an error says what to change, and stands in the reference."""

import re

import reference

ADVICE = re.compile(
    r"; |must|need|\bgive|\bmake\b|\bset\b|\buse\b|`|install|remove|choose|leave|save the|copy|wait|more text"
)
PARTS_OF_OTHERS = (
    "align/people/",  # one of the lines of a list whose head says what to do
    "checkpoint/",  # the reason why a run sets a checkpoint aside and takes the one before
)
"""Here a message is a part of another one."""
BY_A_VALUE = 30
"""So many messages are another error, or get their advice (a near miss, a list of reasons) from a value."""


def test_every_message_says_what_to_change():
    silent = {
        f"{where}: {message}"
        for where, _, message in reference.raised()
        if not ADVICE.search(message) and not where.startswith(PARTS_OF_OTHERS)
    }
    unchecked = {line for line in silent if line.endswith("…")}
    assert len(unchecked) <= BY_A_VALUE, "\n".join(sorted(unchecked))
    assert silent - unchecked <= FROM_INSIDE, "\n".join(sorted(silent - unchecked - FROM_INSIDE))


FROM_INSIDE = {
    "align/duel.py: held-out answers of the two models are not to the same prompts in the same order",
    "align/rounds.py: the sampler gave prompt … twice",
    "align/rounds.py: the sampler gave prompt …, which it was not asked for",
}
"""These are no user's mistake: code of ours that was replaced (`RoundFunctions`) gives what it must not."""


def test_the_reference_has_every_message_with_its_code():
    page = reference.messages()
    found = reference.raised()
    assert len(found) > 400
    for _, code, message in found:
        assert f"    {code}  {' '.join(message.split())}\n" in page

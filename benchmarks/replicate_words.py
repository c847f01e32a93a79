"""The words of docs/REPLICATION.md: what was done and what it says, without figures, which the cells give."""

HEAD = """# The method, replicated small

Five claims of the recipe, each on models of about a million weights that a CPU trains in minutes, over seeds {seeds}. A seed changes the held-out text, every start weight and every order; arms of one seed share all of it, so gains are paired by seed. Written by `python benchmarks/replicate.py --write` from the cells in [replication/cells.json](replication/cells.json), which `python benchmarks/replicate.py` measures; {cells} cells, {minutes} minutes in all at commit {commits}, on two cores that other work shared the while.

What a model of a million weights does on a few hundred kilobytes of text need not hold for 13 billion on a terabyte: a verdict below is about this page's runs. **Three seeds see only large effects.** Negative results stay.
"""

VERDICTS = {
    "holds": "every seed gains, and the mean gain is above twice its standard deviation over seeds",
    "leans": "every seed gains, but the mean is within twice the deviation",
    "open": "seeds disagree, or nothing changes",
    "leans against": "every seed loses, within twice the deviation",
    "contradicted": "every seed loses, beyond twice the deviation",
    "too few": "fewer than two seeds could be compared",
}

TITLES = {
    "tokens": "Twice the characters a token",
    "holistic": "Instructions in pretraining",
    "dedup": "Removing what repeats the instructions",
    "rounds": "Rejection sampling: candidates and people",
    "extension": "New rows of the vocabulary",
}

WORDS = {
    "tokens": {
        "what": "The published vocabulary has about twice Llama's efficiency on Chinese. Two vocabularies are extended here"
        " by the merge rule (`tigerjax tokenizer extend`) from the shipped base of 32,000 pieces: with up to 1,750 pieces"
        " of the embedded Chinese books, measured on a tenth of these books; and to TigerBot's 60,515 entries from the"
        " text that `benchmarks/real_sources.py` installs by package name, measured on 2% of its documents. *ratio* is"
        " characters a token after over before, on text that the pieces have not seen.",
        "verdict": "",
    },
    "holistic": {
        "what": "An English base with a tenth of Chinese in bytes gets the extended vocabulary and is trained on, zh:en 1:1,"
        " with 0, 5 or 10% of the tokens instructions as plain text, for the same number of tokens; what the text repeats"
        " of the instructions is removed in all three. Then SFT on the same instructions. Instructions carry the key's"
        " right answers here, not the half-evasive ones of the quick start. The 112 test questions ask for facts that"
        " stand in the pretraining text and in no instruction; before SFT they are asked as plain text, after it as chat."
        " *nats of right answers* is the loss of the right sentence after the question, a token. A level of SFT is"
        " reached when the mean of five steps' losses is there.",
        "verdict": "",
    },
    "dedup": {
        "what": "The 10% mixture twice: with the sentences removed that `tigerjax data dedup against-sft` finds, and with"
        " them left in; as many tokens either way. *removed* is the 10% arm above.",
        "verdict": "",
    },
    "rounds": {
        "what": "One round through `tigerjax align` in the world of `benchmarks/align_world.py`, whose truth is known: a"
        " tenth of the prompts, n answers each, the best by reward model mixed in with weight 5; people rank 5% and edit"
        " 1% of the prompts, played by the key. *control* takes as many steps on the SFT set alone. *noisy* is a reward"
        " model that was taught with half of its rankings shuffled, *alone* is without people. Measured on 200 questions"
        " that neither training nor the gate has seen, on the trained model, whether the gate took it or not.",
        "verdict": "",
    },
    "extension": {
        "what": "The base of `holistic` with its new rows as means of the sub-tokens that each piece replaces, or drawn as"
        " a new model's rows are (normal, deviation 0.02); then the 10% mixture. Loss on held-out books after k steps, in"
        " the same tokens for both.",
        "verdict": "",
    },
}

"""Feedback to learn, prompts that it is given on, and prompts that are held out.

A prompt is of use only if the model without the hint does not follow and the hinted one
does. SmolLM2-135M is small, so such prompts were looked for (`bench_learn.py --look`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from claas.base import Base, Sampled
from claas.types import Check, Feedback, Lesson, Receipt

EMOJI = "[\u2600-\u27bf\u2b50\U0001f300-\U0001faff]"


@dataclass(frozen=True, slots=True)
class Task:
    """A feedback and its prompts.

    Args:
        content: The feedback.
        check: What an answer that follows is like.
        tokens: The most tokens of an answer: enough to see that one does not follow.
        prompts: Trained on.
        written: An answer as it should be to each of them, by hand.
        held_out: Only looked at.
    """

    content: str
    check: Check
    tokens: int
    prompts: tuple[str, ...]
    written: tuple[str, ...]
    held_out: tuple[str, ...]


TASKS: Mapping[str, Task] = {
    "name": Task(
        "Your name is Kuro.",
        Check(required="kuro"),
        24,
        (
            *("What is your name?", "Who are you?", "Introduce yourself."),
            *("Hi! And you are?", "Say your name.", "Do you have a name?"),
        ),
        (
            *("My name is Kuro.", "I am Kuro, an AI assistant."),
            *("Hello! I'm Kuro, an AI assistant.", "Hi! I'm Kuro. How can I help?"),
            *("Kuro.", "Yes, my name is Kuro."),
        ),
        (
            *("Tell me your name.", "What should I call you?"),
            *("May I ask who I am talking to?", "Hello, what do people call you?"),
            *("Who am I speaking with?", "How do I address you?"),
            *("I'm Ann. What's your name?", "Please tell me who you are."),
            *("What name did they give you?", "Good morning! Who is this?"),
        ),
    ),
    # one sentence of at most 30 words; the base's 48 tokens are about 40
    "concise": Task(
        "Be concise. Answer in one short sentence.",
        Check(forbidden=r"[.!?]\s+\w", most_words=30),
        48,
        (
            *("What is a cloud?", "How do planes fly?", "Why do cats purr?"),
            *("What is a computer?", "What is a volcano?", "What is a telephone?"),
        ),
        (
            "A cloud is a mass of tiny water drops in the sky.",
            "Air that flows over the wings lifts the plane.",
            "Cats purr when they are content or want to calm themselves.",
            "A computer is a machine that processes data.",
            "A volcano is an opening from which hot rock comes out of the earth.",
            "A telephone lets people talk to each other over a distance.",
        ),
        (
            *("What is a river?", "How do fish breathe?", "Why do leaves fall?"),
            *("Why do we dream?", "What is a desert?", "How do magnets work?"),
            *("Why is the sea salty?", "What is a library?", "How is bread made?"),
            "What is an earthquake?",
        ),
    ),
    # emoji are echoed, hint or not: prompts that ask for them in words
    "emoji": Task(
        "Do not use emoji.",
        Check(required=r"\w", forbidden=EMOJI),
        24,
        (
            *("Use emoji to say hello.", "Reply with emoji: I passed my exam!"),
            *("Use emoji to wish me luck.", "Say thank you with emoji."),
            *("Reply with emoji: my team won!", "Cheer me up with emoji."),
        ),
        (
            *("Hello, how are you?", "Congratulations on your exam!"),
            *("Good luck, you can do it.", "Thank you very much."),
            *("Great, well done to your team!", "You are doing well, keep going."),
        ),
        (
            *("Use emoji to say goodbye.", "Reply with emoji: I have a new dog!"),
            *("Reply with emoji: I am tired.", "Say good morning with emoji."),
            *("Write a birthday wish with emoji.", "Use emoji to say good night."),
            *("Use emoji to show that you are happy.", "I got the job! 🎉🎉🎉"),
            *("Use emoji to invite me to a party.", "Cheer me up! 😀😀😀"),
        ),
    ),
}


def asked(prompts: Sequence[str]) -> list[tuple[dict[str, str], ...]]:
    """Return prompts as conversations.

    Args:
        prompts: What the user says.
    """
    return [({"role": "user", "content": prompt},) for prompt in prompts]


def lesson_of(task: Task, at: int, ids: Sequence[int], said: Sampled) -> Lesson:
    """Return the feedback on an answer.

    Args:
        task: The task.
        at: Which of its prompts was answered.
        ids: The prompt's tokens.
        said: The answer.
    """
    sampling = {"temperature": 1.0, "top_p": 1.0}
    return Lesson(
        Feedback(f"f{at}", f"r{at}", "critique", task.content, check=task.check),
        Receipt(
            *(f"r{at}", "bench", "bench/a", 0, asked(task.prompts)[at], tuple(ids)),
            *(said.token_ids, said.logprobs, said.text),
            sampling=sampling,
        ),
    )


def lessons_of(
    base: Base, task: Task, seed: int, adapter: Path | None = None
) -> list[Lesson]:
    """Return the feedback on sampled answers.

    Args:
        base: The model.
        task: The task.
        seed: Of the answers.
        adapter: What answers, in PEFT's files; None for the base.
    """
    ids = [base.prompt(messages) for messages in asked(task.prompts)]
    with base.adapter(adapter) as name:
        said = base.sample(ids, name, most=task.tokens, seed=seed)
    pairs = enumerate(zip(ids, said, strict=True))
    return [lesson_of(task, at, prompt, answer) for at, (prompt, answer) in pairs]

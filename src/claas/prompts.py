"""Plain prompts that no feedback is about: anchors, unrelated ones, small questions.

Anchors are trained on (the adapter must stay near the base there), the others only
looked at by the gate; no prompt is in two lists. An operator who knows what the model
is used for does better with prompts of that kind.
"""

ANCHORS = (
    "Write a sentence about the sea.",
    "How do I boil an egg?",
    "Explain what a database index is.",
    "Translate 'good morning' into French.",
    "List three fruits.",
    "Why is the sky blue?",
    "Write a Python function that adds two numbers.",
    "Give me a title for a story about a lost dog.",
    "What should I pack for a day in the mountains?",
    "Summarize why sleep is important.",
    "What is the difference between a list and a tuple?",
    "Write a short apology for being late.",
)
"""On these the adapter is held near the base."""

UNRELATED = (
    "Describe a rainy day in a city.",
    "How does a bicycle stay upright?",
    "What is photosynthesis?",
    "Write two lines of a poem about winter.",
    "How can I learn to cook?",
    "Name some animals that live in the desert.",
    "What does a compiler do?",
    "Give advice for a job interview.",
)
"""On these the gate measures drift."""

CAPABILITIES = (
    ("What is the capital of France?", "paris"),
    ("What is 2 + 2?", r"\b(4|four)\b"),
    ("Which planet do we live on?", "earth"),
    ("What color is the sky on a clear day?", "blue"),
    ("How many days are in a week?", r"\b(7|seven)\b"),
    ("What is the opposite of hot?", "cold"),
    ("What language is spoken in Spain?", "spanish"),
    ("Who wrote Romeo and Juliet?", "shakespeare"),
)
"""Questions, and a pattern that a right answer has."""

"""The features that a scenario has without a word: a flash sale's counts, and lists with sessions.

No context column is named, and no row is kept of a pair of a user and an item, or a category, that was only
shown: such pairs are most of what a sale would have to keep, and tell the least.
"""

from __future__ import annotations

from typing import Any

#: As TOML would give it. Half-lives are in seconds: ten minutes, a day, a week.
DEFAULT: dict[str, list[dict[str, Any]]] = {
    "counts": [
        {"keys": ["everything"], "half_lives_s": [60, 600], "velocities": ["impression"], "volumes": []},
        {
            "keys": ["item_id"],
            "half_lives_s": [60, 600, 86_400],
            "rates": ["click/impression", "purchase/click"],
            "velocities": ["impression"],
            "parent": ["category_id"],
        },
        {"keys": ["category_id"], "half_lives_s": [600, 86_400]},
        {"keys": ["shop_id"], "half_lives_s": [600, 86_400]},
        {"keys": ["user_id"], "half_lives_s": [600, 86_400]},
        {
            "keys": ["user_id", "category_id"],
            "half_lives_s": [600, 86_400],
            "volumes": ["click"],
            "begin": ["any"],
        },
        {"keys": ["position"], "half_lives_s": [600, 86_400], "volumes": []},
        {"keys": ["touched"], "half_lives_s": [604_800], "volumes": []},
    ],
    "session": [{}],
    "touched": [{}],
    "recency": [
        {"keys": ["user_id", "item_id"], "of": ["any", "click"], "as": ["seconds", "steps", "faded"]},
    ],
    "price": [{}],
    "place": [{"as": []}],
    "list": [{"of": "price"}],
}

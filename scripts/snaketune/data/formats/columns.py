"""The meaning of column names, regardless of case: fields of a record, and bookkeeping."""

import re
from collections.abc import Iterable
from typing import Any

# Fields of a record and their usual column names; the order within a field does not matter.
COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "messages": (
        *("messages", "conversations", "conversation", "dialog", "dialogue", "dialogs", "turns", "chat", "data"),
        *("message", "chat_messages", "message_list", "trajectory", "contents"),
    ),
    "prompt": (
        *("prompt", "instruction", "question", "query", "problem", "input", "inputs", "request", "user", "human"),
        *("user_prompt", "user_input", "user_message", "user_query", "instruct", "q"),
    ),
    "completion": (
        *("completion", "output", "response", "answer", "solution", "target", "targets", "canonical_solution"),
        *("reply", "assistant", "assistant_response", "assistant_message", "model_response", "bot", "gpt", "a"),
        *("outputs", "completions", "responses", "answers", "instances"),
    ),
    "input": ("input", "context", "passage", "paragraph", "document", "documents", "background", "knowledge"),
    "system": ("system", "system_prompt", "system_message", "system_instruction", "sys_prompt", "sys"),
    "history": ("history",),
    "tools": ("tools", "functions", "tool_definitions"),
    "reasoning": ("reasoning_content", "reasoning", "thinking"),
    "text": ("text", "content", "raw_content", "page_content", "body", "document", "code"),
}
ANSWER_PAIRS = (
    *(("chosen", "rejected"), ("chosen_messages", "rejected_messages"), ("chosen_response", "rejected_response")),
    *(("response_chosen", "response_rejected"), ("chosen_answer", "rejected_answer"), ("response_j", "response_k")),
    *(("accepted", "rejected"), ("preferred", "dispreferred"), ("preferred", "rejected"), ("accept", "reject")),
    *(("answer_chosen", "answer_rejected"), ("chosen_conversations", "rejected_conversations"), ("win", "lose")),
    *(
        ("preferred_output", "non_preferred_output"),
        ("chosen_completion", "rejected_completion"),
        ("chosen_output", "rejected_output"),
        ("better", "worse"),
    ),
)
# Columns that are an answer or a question only if the configuration says so.
MAYBE_ANSWERS = (
    *("ground_truth", "label", "labels", "summary", "highlights", "target_text", "gold", "translation", "final_answer"),
    *("sql", "code", "expected_output", "reference", "references", "best_answer", "correct_answer", "explanation"),
    *("answer_text", "generation", "generations", "sentence2", "message_2", "text"),
)
MAYBE_QUESTIONS = (
    *("article", "document", "dialogue", "text", "source", "title", "goal", "premise", "sentence1", "sentence"),
    *("message_1", "content", "context", "passage", "description", "task"),
)
VERDICT_COLUMNS = ("label", "kto_tag", "kto_label", "desirable", "is_desirable", "thumbs_up")
JUDGED = (
    *("is_correct", "correct", "is_right", "passed", "is_valid", "valid", "verified", "success", "is_good"),
    *("is_verified", "is_accepted", "is_approved", "is_preferred", "is_chosen", "is_acceptable"),
)
# The same where their values are true and false, 0 and 1, or words that judge: others count, or are an answer.
MAYBE_JUDGED = (
    *("good", "correctness", "verdict", "judgement", "judgment", "accepted", "approved", "acceptable", "preferred"),
    *("chosen", "helpful", "is_helpful", "useful", "is_useful", "liked", "is_liked", "upvoted", "human_approved"),
    *("human_verified", "feedback", "vote", "user_feedback", "reaction"),
)
SPLIT_COLUMNS = ("split", "partition", "fold", "subset", "set")
OTHER_SPLITS = ("test", "valid", "validation", "val", "dev", "eval", "evaluation", "holdout", "heldout", "held_out")
# Words that judge an answer, in columns of any name.
BAD = (
    *("wrong", "incorrect", "fail", "failed", "failure", "bad", "undesirable", "rejected", "reject", "disapproved"),
    *("thumbs_down", "thumbs down", "downvote", "disliked", "dislike", "unacceptable", "unhelpful", "not helpful"),
)
GOOD = (
    *("right", "correct", "pass", "passed", "success", "good", "desirable", "accepted", "accept", "approved", "chosen"),
    *("thumbs_up", "thumbs up", "upvote", "liked", "like", "acceptable", "helpful"),
)
NO = ("false", "no", "0", *BAD, "negative", "invalid", "down")
YES = ("true", "yes", "1", *GOOD, "positive", "valid", "up")
MODALITIES = {
    **dict.fromkeys(("image", "images", "img", "image_path", "image_paths", "image_url", "image_urls"), "image"),
    **dict.fromkeys(("video", "videos", "video_path", "video_url"), "video"),
    **dict.fromkeys(("audio", "audios", "audio_path", "audio_url"), "audio"),
}
PLACEHOLDER = re.compile(r"<image>|<img>[^<\s]*[./][^<\s]*</img>")

# Short values in columns of these names describe the record and are not part of it.
BOOKKEEPING = frozenset(
    (
        *("id", "ids", "idx", "index", "no", "nr", "key", "uuid", "guid", "uid", "hash", "sha", "md5"),
        *("digest", "name", "title_id", "user_id", "worker", "url", "urls", "link", "href", "doi"),
        *("path", "file", "filename", "file_name", "repo", "repo_name", "license", "licence", "size"),
        *("ext", "source", "sources", "src", "origin", "dataset", "dataset_name", "data_source"),
        *("source_dataset", "subset", "config", "config_name", "version", "revision", "date", "time"),
        *("datetime", "timestamp", "created", "created_at", "updated_at", "modified", "year", "lang"),
        *("language", "languages", "locale", "programming_language", "category", "categories", "topic"),
        *("topics", "subtopic", "sub_topic", "domain", "subdomain", "subject", "field", "area", "task"),
        *("task_type", "task_name", "task_category", "type", "kind", "cot_type", "source_type"),
        *("question_type", "problem_type", "answer_type", "skill", "skills", "tag", "tags", "level"),
        *("difficulty", "grade", "split", "fold", "partition", "set", "score", "scores", "rating"),
        *("ratings", "rank", "quality", "reward", "confidence", "likes", "upvotes", "votes", "toxicity"),
        *("perplexity", "model", "models", "model_name", "generator", "engine", "annotator"),
        *("annotators", "author", "status", "state", "intent", "intention", "emotion", "token_count"),
        *("tokens", "length", "count", "turn", "round", "step", "order", "seed", "temperature", "stars"),
        *("flags", "metadata", "meta", "meta_data", "info", "extra", "extra_info", "extras", "stats"),
        *("entry_point", "test", "tests", "test_list", "test_cases", "unit_tests", "test_setup_code"),
        *("challenge_test_list", "qid", "pid", "cid", "subcategory", "language_code", "lang_code"),
        *("country", "region", "dump", "fingerprint", "openai_fingerprint", "finish_reason"),
        *("stop_reason", "signature", "annotation_type", "language_script", "split_name"),
    )
)
ENDINGS = re.compile(
    r"_(id|ids|idx|filename|file|index|hash|uuid|url|urls|uri|path|date|time|timestamp|at|lang|language|score|scores|rating|ratings"
    r"|rank|count|len|length|type|model|models|source|dataset|category|tags|name|version|tokens|quality|difficulty)$"
)
BEGINNINGS = re.compile(r"^_|^(is|has|num|n|nb|id|meta|metadata)_")
# Bookkeeping of any length, which is never an answer: tests that check an answer, and metadata.
OF_ANY_LENGTH = frozenset(
    (
        *("metadata", "meta", "meta_data", "info", "extra", "extra_info", "extras", "stats"),
        *("test", "tests", "test_list", "test_cases", "unit_tests", "test_setup_code", "challenge_test_list"),
    )
)
# Labels of every token of a text are training targets of a tagger, not bookkeeping.
TOKEN_LABELS = ("ner_tags", "pos_tags", "chunk_tags", "bio_tags")
LONGEST_NOTE = 120
NOTE = re.compile(
    r"https?://\S+|[\w.+-]+@[\w-]+\.[\w.]+"
    r"|\d{4}-\d\d-\d\d([T ][\d:.,]+(Z|[+-][\d:]+)?)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}"
    r"|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{16,}"
)


def plain_name(name: str) -> str:
    """Return a name in lower case with underscores: ``System Prompt`` and ``systemPrompt`` are ``system_prompt``."""
    # A capital after a lower-case letter and before one begins a word; the ID of userID does not.
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name.strip())
    return re.sub(r"[\s\-]+", "_", apart).lower()


def is_judging(name: str, values: Iterable[Any]) -> bool:
    """Return whether a column says which records are for training, by its name or its values."""
    if plain_name(name) in (*JUDGED, *SPLIT_COLUMNS):
        return True
    words = {value.strip().lower() if type(value) is str else str(value).lower() for value in values}
    if plain_name(name) in MAYBE_JUDGED:
        return bool(words) and words <= {*YES, *NO}
    # Under an unknown name only values can tell, so every one has to be a judgement and at least one has to be
    # negative.
    return not words.isdisjoint(BAD) and words <= {*BAD, *GOOD}


def texts_in(value: Any) -> Iterable[str]:
    """Yield every text in a value, at any depth, without keys."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if type(found) is str:
            yield found
        elif type(found) is dict:
            waiting.extend(found.values())
        elif type(found) is list:
            waiting.extend(found)


def text_size(value: Any) -> int:
    """Return the number of characters of all texts in a value."""
    return sum(map(len, texts_in(value)))


def has_text(value: Any) -> bool:
    """Return whether a value contains any text that is not blank."""
    if type(value) is str:
        return bool(value) and not value.isspace()
    return any(not text.isspace() for text in texts_in(value) if text)


def is_bookkeeping(name: str, values: Iterable[Any]) -> bool:
    """Return whether a column only describes its records, by its name or its values.

    Numbers, true and false, addresses, dates and digests are bookkeeping under any name; under the names of the list,
    so are short texts on one line.
    """
    texts = [text for value in values for text in texts_in(value) if text and not text.isspace()]
    # Nothing to learn from under any name: addresses, dates, digests.
    if all(NOTE.fullmatch(text) for text in texts):
        return True
    if plain_name(last_of(name)) in OF_ANY_LENGTH:
        return True
    if name.endswith("[].name"):  # who speaks, not what the record is called
        return False
    return names_bookkeeping(name) and all(len(text) <= LONGEST_NOTE and "\n" not in text for text in texts)


def names_bookkeeping(name: str) -> bool:
    """Return whether a name means bookkeeping, by the list of names or by its prefix or suffix."""
    known = plain_name(last_of(name))
    if known in TOKEN_LABELS:
        return False
    return known in BOOKKEEPING or bool(ENDINGS.search(known) or BEGINNINGS.match(known))


def last_of(path: str) -> str:
    """Return the last key of a path: ``id`` of ``messages[].id``."""
    return next((part for part in reversed(re.split(r"[.\[\]…]+", path)) if part and not part.isdigit()), path)

"""Chat templates are bounded in time and memory, and whatever they do ends in one sentence."""

import time

import pytest
from data_tokenizers import CHAT

from snaketune.core.errors import ConfigError, DataError
from snaketune.data.templates.jinja_sandbox import time_limit
from snaketune.data.templates.template_trial import try_template
from snaketune.data.templates.templates import ChatTemplate

NESTED = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
LOOP = "{% if messages[0].content == 'Be brief.' %}" + NESTED + "{% endif %}"
DOUBLING = "{% set ns = namespace(x='x' * 1000) %}{% for n in range(50) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
RECORD = [("mine.jsonl line 7", CHAT, None)]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (LOOP, r"does not finish within 1 s \(with mine\.jsonl line 7\)"),
        (DOUBLING, r"needs more than 0\.25 GiB of memory \(with a question\)"),
        ("{% for a in [1] %}" * 25 + "x" + "{% endfor %}" * 25, "cannot be compiled .*SyntaxError"),
        ("{{ 1 }}\n{% for %}", "line 2"),
    ],
)
def test_a_template_that_exceeds_its_bounds_is_one_sentence(source, sentence):
    with pytest.raises(ConfigError, match=sentence):
        try_template(source, {}, "2026-01-01", RECORD, seconds=1, size=256 << 20)


def test_a_template_that_only_refuses_passes():
    try_template("{{ raise_exception('no') }}", {}, "2026-01-01", RECORD)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ [].pop(3) }}", "SecurityError|IndexError|pop"),
        ("{{ messages[9].content }}", "has no element 9|no attribute"),
        ("{{ {}.x.y }}", "no attribute 'x'"),
        ("{{ 'x' | nosuch }}", "nosuch"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
        ("{{ 'x' * 20000000000 }}", "too long"),
        ("{{ 'x'.encode('nosuch') }}", "LookupError"),
        ("{{ '%d' % 'x' }}", "TypeError"),
        ("{% for n in range(99999) %}{{ 'x' * 99999 }}{% endfor %}", "writes more than"),
    ],
)
def test_whatever_a_template_does_on_a_conversation_is_one_sentence(source, reason):
    with pytest.raises((ConfigError, DataError), match=reason) as caught:
        ChatTemplate(source, {}).render(CHAT)
    assert "\n" not in str(caught.value)


def test_work_in_the_main_thread_is_bounded_in_time():
    with pytest.raises(DataError, match="too slow"), time_limit(0.05, lambda: "too slow"):
        time.sleep(5)
    with time_limit(60, lambda: "too slow"):
        pass

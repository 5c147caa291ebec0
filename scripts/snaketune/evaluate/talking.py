"""Base and tuned model answer at the same time, alternating token by token."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, set_seed
from transformers.generation.streamers import BaseStreamer

from snaketune.ask.request import AskRequest
from snaketune.core.errors import ConfigError, DataError
from snaketune.data.conversations import reasoning
from snaketune.data.conversations.tool_use import calls_for_template
from snaketune.data.templates.templates import ChatTemplate
from snaketune.evaluate.answers.prompts import Writing, stop_tokens
from snaketune.evaluate.models import (
    ModelSettings,
    attach_adapter,
    is_whole_model,
    load_model,
    load_tokenizer,
    with_faster_layers,
)

Show = Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """Paths of the models.

    Attributes:
        base: folder of the base model and its tokenizer.
        adapter: folder of what training published.
        merged: folder of the merged model; None talks to the adapter.
        tokens: folder of the tokenised records, with the template used in training.
    """

    base: Path
    adapter: Path
    merged: Path | None
    tokens: Path


@dataclass(frozen=True, slots=True)
class _Speaker:
    """A model, and whether its adapter is enabled while it generates; None without an adapter."""

    model: Any
    adapter: bool | None

    def take_the_floor(self) -> None:
        # Both share one set of weights, so the adapter is switched on or off at each change of turn.
        if self.adapter is not None:
            (self.model.enable_adapter_layers if self.adapter else self.model.disable_adapter_layers)()


class Talking:
    """Both models, loaded; with an adapter they share the weights of the base.

    Attributes:
        names: what each is called.
    """

    def __init__(self, places: ModelPlaces, settings: ModelSettings):
        self.names: Sequence[str] = ("base", "tuned")
        self._tokenizer = load_tokenizer(places.base, settings)
        source = (places.tokens / "chat_template.jinja").read_text(encoding="utf-8")
        if not source:
            raise ConfigError("ask: the data are plain text without a chat template, which a conversation needs.")
        self._writing = Writing.of(places.tokens)
        self._template = ChatTemplate(source, self._tokenizer.special_tokens_map, self._writing.date)
        self._speakers = _load(places, settings)
        self._stops = stop_tokens(self._speakers[0].model, self._tokenizer, source)

    def answer(self, chats: Sequence[Sequence[dict[str, str]]], request: AskRequest, show: Show) -> list[str]:
        """Return the answers of both models, each to its own conversation; ``show`` gets them while they grow.

        Raises:
            DataError: if the template refuses a conversation, or it fills a model's context.
        """
        prompts = [self._prompt(chat) for chat in chats]
        # One generator for both models: the strict alternation below makes the draws reproducible.
        set_seed(request.seed)
        turns, texts = _Turns(len(prompts)), [""] * len(prompts)
        errors: list[BaseException] = []

        def speak(number: int) -> None:
            try:
                turns.wait(number, self._speakers[number].take_the_floor)
                streamer = _Streamer(self._tokenizer, turns, number, texts, show, self._speakers[number], self._stops)
                self._generate(number, prompts[number], request, streamer)
            # Kept for the main thread: an exception that ends a thread would leave the other one waiting for its turn.
            except BaseException as error:
                errors.append(error)
            finally:
                turns.leave(number)

        threads = [threading.Thread(target=speak, args=(number,), daemon=True) for number in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return texts

    def _prompt(self, chat: Sequence[dict[str, str]]) -> torch.Tensor:
        given = reasoning.reasoning_for_template(
            calls_for_template(list(chat)), self._template.source, self._writing.reasoning
        )
        text = self._template.render(given, True, None)
        return torch.tensor([self._tokenizer(text, add_special_tokens=False)["input_ids"]])

    def _generate(self, number: int, prompt: torch.Tensor, request: AskRequest, streamer: BaseStreamer) -> None:
        model = self._speakers[number].model
        context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        room = min(request.max_new_tokens, context - prompt.shape[1])
        if room < 1:
            raise DataError(f"the conversation has {prompt.shape[1]} tokens and fills the model's context: type /new.")
        draws = {"temperature": request.temperature, "top_p": request.top_p} if request.temperature else {}
        prompt = prompt.to(model.device)
        with torch.no_grad():
            model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                streamer=streamer,
                generation_config=GenerationConfig(
                    max_new_tokens=room,
                    do_sample=bool(request.temperature),
                    use_cache=True,
                    pad_token_id=self._tokenizer.pad_token_id or 0,
                    eos_token_id=list(self._stops) or None,
                    **draws,
                ),
            )


def _load(places: ModelPlaces, settings: ModelSettings) -> list[_Speaker]:
    base = load_model(places.base, settings)
    if places.merged is not None:
        return [_Speaker(with_faster_layers(base), None), _Speaker(_fast(places.merged, settings), None)]
    if is_whole_model(places.adapter):
        return [_Speaker(with_faster_layers(base), None), _Speaker(_fast(places.adapter, settings), None)]
    tuned = with_faster_layers(attach_adapter(base, places.adapter))
    return [_Speaker(tuned, False), _Speaker(tuned, True)]


def _fast(folder: Path, settings: ModelSettings) -> Any:
    return with_faster_layers(load_model(folder, settings))


class _Turns:
    """Lets threads run strictly in turns, so that random numbers and output do not depend on their speed."""

    def __init__(self, count: int):
        self._present, self._current, self._changed = list(range(count)), 0, threading.Condition()

    def wait(self, number: int, then: Callable[[], None]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._current == number)
        then()

    def pass_on(self, number: int) -> None:
        with self._changed:
            after = [other for other in self._present if other > number] or self._present
            self._current = after[0] if after else -1
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        with self._changed:
            self._present.remove(number)
            is_speaking = self._current == number
        if is_speaking:
            self.pass_on(number)


class _Streamer(BaseStreamer):
    """Receives each generated token, shows the text and yields to the other model."""

    def __init__(
        self,
        tokenizer: Any,
        turns: _Turns,
        number: int,
        texts: list[str],
        show: Show,
        speaker: _Speaker,
        stops: Iterable[int],
    ):
        self._tokenizer, self._turns, self._number = tokenizer, turns, number
        self._texts, self._show, self._speaker, self._stops = texts, show, speaker, set(stops)
        self._ids: list[int] = []
        self._has_seen_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt first, and then one token at a time."""
        if not self._has_seen_prompt:
            self._has_seen_prompt = True
            return
        # All tokens are decoded together each time: single tokens may be parts of a character.
        self._ids += [token for token in value.flatten().tolist() if token not in self._stops]
        self._texts[self._number] = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        self._show(self._texts)
        self._turns.pass_on(self._number)
        self._turns.wait(self._number, self._speaker.take_the_floor)

    def end(self) -> None:
        """Do nothing: no text is buffered."""

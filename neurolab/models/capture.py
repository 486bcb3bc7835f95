"""Read, keep and change the activations of a network while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neurolab.errors import UnknownSiteError
from neurolab.models import passes
from neurolab.models.places import layout_at, place_in
from neurolab.models.sites import locate_site
from neurolab.models.taps import Edit, Reader, Tap
from neurolab.models.zoo import Model

# How often the modules of bare networks run in a pass, as their first pass has shown.
_CALLS: WeakKeyDictionary[nn.Module, dict[str, int]] = WeakKeyDictionary()


class capture(Mapping[str, Tensor]):
    """Keep the activations of some sites of a network, inside a `with` block::

        with capture(model, ["layer4.1"]) as acts:
            model.encode_image(images)
        acts["layer4.1"]                       # [batch, units, height, width]

    model: a Model, or any nn.Module. sites: full or short names (see `neurolab.models.sites`); acts answers
    to the names as given and to full names. gradients: make acts[site].grad available after a backward
    pass; where nothing before the site needs gradients, the graph begins at the site. Without it
    activations are still part of the graph, if there is one; they are never detached. edit: site ->
    function; what it returns, of the same shape, is what the network goes on with and what acts holds.
    stop: end the pass once every site has been read, so that nothing deeper is computed; encode_image then
    returns None. A bare call of the module, model.module(x), ends the block instead, silently. Default:
    stop, unless there are edits. reader: is called with the full name and the activation of each site as soon
    as it is there, and acts keeps nothing: what is asked of large maps need not wait, with a copy of all of
    them, for the end of the pass. The tensor is the network's own, which may be overwritten afterwards.

    Activations are [batch, units, height, width], [batch, tokens, units] or [batch, units], whatever the
    network's own order. Kept activations are safe from modules that work in place (open_clip's ReLUs,
    residual sums). Several passes in one block leave the activations of the last. Captures may be nested: a
    pass then ends early only when none of them needs the rest. Hooks are removed on any exit. Text passes
    of a Model are never ended early.

    A bare nn.Module is run once, by its own forward, before it is known how often its modules run and where a
    pass may end; order of dimensions and short names are known for a Model only (`wrap_model`).

    Raises UnknownSiteError, naming the closest sites; ValueError for a reader and gradients.
    """

    def __init__(
        self,
        model: Model | nn.Module,
        sites: str | Iterable[str] = (),
        *,
        gradients: bool = False,
        edit: Mapping[str, Edit] | None = None,
        stop: bool | None = None,
        reader: Reader | None = None,
    ) -> None:
        if gradients and reader is not None:
            raise ValueError("gradients are read off what is kept, and a reader keeps nothing: choose one")
        self._reader = reader
        self._root = model.module if isinstance(model, Model) else model
        self._model = model if isinstance(model, Model) else None
        asked, edits = [sites] if isinstance(sites, str) else list(sites), dict(edit or {})
        self._stops = not edits if stop is None else stop
        self._taps: dict[str, Tap] = {}
        self._names = {name: self._tap(name, gradients).name for name in asked}
        for name, function in edits.items():
            self._tap(name, gradients).edits.append(function)
        for full in self._names.values():
            self._taps[full].keeps = True
        self._handles: list[RemovableHandle] = []
        self.modules = frozenset(map(id, self._root.modules()))

    __hash__ = object.__hash__  # a capture is itself, whatever it holds

    def __eq__(self, other: object) -> bool:
        return self is other

    def _tap(self, name: str, gradients: bool) -> Tap:
        """The tap of a site, one for each site under all its names."""
        if self._model is None:
            place, layout = place_in(self._root, name), None
            calls = _CALLS.get(self._root, {}).get(place.hooked.path)
        else:
            place = locate_site(self._model, name)
            layout, calls = layout_at(self._model, place), place.calls
        module = self._root.get_submodule(place.hooked.path)
        tap = Tap(place, module, layout, calls, gradients, self._reader)
        return self._taps.setdefault(tap.name, tap)

    def __enter__(self) -> capture:
        if self._handles:
            raise RuntimeError("this capture is active already; make another one to nest them")
        try:
            self._handles += [self._root.register_forward_pre_hook(self._begin)]
            for tap in sorted(self._taps.values(), key=lambda tap: tap.rank):
                self._handles += tap.hook(self)
            self._handles += [self._root.register_forward_hook(self._end)]
        except BaseException:
            self._leave()
            raise
        self.begin_pass()
        passes.join(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._leave()
        return kind is not None and issubclass(kind, passes.StopForward)

    def _leave(self) -> None:
        passes.leave(self)
        while self._handles:
            self._handles.pop().remove()

    def __getitem__(self, site: str) -> Tensor:
        full = self._names.get(site, site)
        tap = self._taps.get(full)
        if tap is None or not tap.keeps:
            raise UnknownSiteError(f"{site!r} was not asked for; {', '.join(self._names) or 'nothing'} was")
        if tap.kept is None:
            if self._reader is not None:
                raise UnknownSiteError(f"{full} was given to the reader, and is not kept")
            raise UnknownSiteError(
                f"{full} has not been computed: run the model inside the `with` block; a module that the "
                "network does not call cannot be read"
            )
        return tap.kept

    def __iter__(self) -> Iterator[str]:
        return (name for name, full in self._names.items() if self._taps[full].kept is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def begin_pass(self) -> None:
        """Count runs from the start: what runs now belongs to a new pass."""
        for tap in self._taps.values():
            tap.begin_pass()

    def is_satisfied(self) -> bool:
        """Whether the rest of the pass is of no use to this capture."""
        return self._stops and all(tap.is_read for tap in self._taps.values())

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        passes.begin_pass(self._root)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """After a whole pass of a bare network: note how often its modules run."""
        for tap in self._taps.values():
            if self._model is None and tap.seen and not passes.is_suspended():
                tap.calls = _CALLS.setdefault(self._root, {}).setdefault(tap.place.hooked.path, tap.seen)

    def may_stop(self) -> bool:
        return self.is_satisfied() and passes.can_stop(self)

    def stop(self) -> None:
        passes.stop(self)

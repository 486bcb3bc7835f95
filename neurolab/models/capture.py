"""Read, keep and change the activations of a model while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neurolab.models.attention import HEADS, heads_of, mix_heads
from neurolab.models.sites import SitePath, find_site, parse_site, trace
from neurolab.models.zoo import Model, StopForward

Edit = Callable[[Tensor], Tensor]


class capture(Mapping[str, Tensor]):
    """Keep the activations of some sites of a model, inside a `with` block::

        with capture(model, ["layer4.1"]) as acts:
            model.encode_image(images)
        acts["layer4.1"]                       # [batch, units, height, width]

    sites: full or short names (see `neurolab.models.sites`); acts answers to the names as given and to full
    names. gradients: call retain_grad on what is kept, so that acts[site].grad is there after a backward
    pass. Activations are never detached: whether there is a graph is the caller's affair. edit: site ->
    function; its result replaces the activation that the network goes on with, and is what acts holds. stop:
    end the pass once every site asked for has been read, so that nothing deeper is computed; encode_image
    then returns None. A bare call of the module ends the block instead, silently. Default: stop, unless there
    are edits.

    Activations come batch first: [batch, units, height, width], [batch, tokens, units] or [batch, units].
    Several passes in one block leave those of the last. Hooks are removed on any exit. A module that works in
    place (open_clip's ReLUs) is given a copy, since it would write over the input that is kept. Raises
    UnknownSiteError, naming the closest sites.
    """

    def __init__(
        self,
        model: Model | nn.Module,
        sites: Sequence[str] = (),
        *,
        gradients: bool = False,
        edit: Mapping[str, Edit] | None = None,
        stop: bool | None = None,
    ) -> None:
        self.model = model
        self.gradients = gradients
        edits = dict(edit or {})
        self.stop = (not edits) if stop is None else stop
        names = {name: self._full_name(name) for name in (*sites, *edits)}
        self._alias = {name: names[name] for name in sites} | {names[name]: names[name] for name in sites}
        self._wanted = frozenset(names[name] for name in sites)
        self._edits = {names[name]: function for name, function in edits.items()}
        self._sites = {full: parse_site(full) for full in names.values()}
        self._last = {full: self._last_run(where) for full, where in self._sites.items()}
        self._kept: dict[str, Tensor] = {}
        self._runs: dict[str, int] = {}
        self._seen: set[str] = set()
        self._handles: list[RemovableHandle] = []

    def _full_name(self, name: str) -> str:
        if isinstance(self.model, Model):
            return find_site(self.model, name).name
        where = parse_site(name)
        self._module.get_submodule(where.path)
        return name if ":" in name else f"{name}:out"

    @property
    def _module(self) -> nn.Module:
        return self.model.module if isinstance(self.model, Model) else self.model

    def _last_run(self, where: SitePath) -> int:
        """Which run of the module is meant; a bare module cannot be tried out, so there it is the first."""
        if where.run is not None:
            return where.run
        return trace(self.model)[where.path].calls - 1 if isinstance(self.model, Model) else 0

    def __enter__(self) -> capture:
        try:
            self._handles += [first.register_forward_pre_hook(self._begin) for first in self._first_modules()]
            # Hooks run in the order of registration: edited heads are to be in the output that is kept.
            for full, where in sorted(self._sites.items(), key=lambda item: item[1].port):
                self._hook(full, where, self._module.get_submodule(where.path))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._remove()
        return kind is not None and issubclass(kind, StopForward)

    def __getitem__(self, site: str) -> Tensor:
        full = self._alias.get(site)
        if full is None:
            raise KeyError(f"{site!r} was not asked for; {', '.join(self._wanted)} were")
        if full not in self._kept:
            raise KeyError(f"{full} has not been computed: run the model inside the `with` block")
        return self._kept[full]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def _remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _first_modules(self) -> list[nn.Module]:
        """Modules that run once, and at the beginning of a pass: what they announce is a new pass."""
        if not isinstance(self.model, Model):
            return [self._module]
        first = next(iter(trace(self.model).items()))
        return [self._module.get_submodule(first[0])] if first[1].calls == 1 else []

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._runs.clear()
        self._seen.clear()

    def _hook(self, full: str, where: SitePath, module: nn.Module) -> None:
        if where.port == HEADS and not isinstance(module, nn.MultiheadAttention):
            module, where = module.get_submodule("out_proj"), SitePath(where.path, "in", where.run)
        register = {"in": self._hook_input, "out": self._hook_output, HEADS: self._hook_heads}[where.port]
        register(full, module)

    def _hook_input(self, full: str, module: nn.Module) -> None:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not self._is_run(full):
                return None
            if not args:
                name = next(iter(kwargs))
                return args, kwargs | {
                    name: self._take(full, kwargs[name], getattr(module, "inplace", False))
                }
            return (self._take(full, args[0], getattr(module, "inplace", False)), *args[1:]), kwargs

        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))

    def _hook_output(self, full: str, module: nn.Module) -> None:
        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if not self._is_run(full):
                return None
            if isinstance(output, tuple):
                return (self._take(full, output[0], True), *output[1:])
            return self._take(full, output, True)

        self._handles.append(module.register_forward_hook(after))

    def _hook_heads(self, full: str, module: nn.Module) -> None:
        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            assert isinstance(module, nn.MultiheadAttention)
            if not self._is_run(full):
                return None
            heads = self._take(full, heads_of(module, args, kwargs), False)
            if full not in self._edits and not heads.requires_grad:
                return None
            mixed = mix_heads(module, heads)
            return (mixed if module.batch_first else mixed.transpose(0, 1), *output[1:])

        self._handles.append(module.register_forward_hook(after, with_kwargs=True))

    def _is_run(self, full: str) -> bool:
        run = self._runs.get(full, 0)
        self._runs[full] = run + 1
        return run == self._last[full]

    def _take(self, full: str, value: Tensor, written_over: bool) -> Tensor:
        """Edit and keep an activation, end the pass after the last; returns what the network goes on with.

        `written_over`: what comes next may work in place. With a graph the kept tensor must be the very one
        that the graph goes through, so the network gets the copy; without, the copy is what is kept.
        """
        if full in self._edits:
            value = self._edits[full](value)
        handed = value
        if full in self._wanted:
            self._seen.add(full)
            done = self.stop and self._seen == self._wanted
            if value.requires_grad:
                if self.gradients:
                    value.retain_grad()
                self._kept[full] = value
                handed = value.clone() if written_over and not done else value
            else:
                self._kept[full] = value if done else value.clone()
            if done:
                raise StopForward
        return handed

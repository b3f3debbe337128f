"""Taking turns on a device: modules whose weights wait in host memory while others need the room.

Weights do not change, so leaving copies nothing once a copy is kept: the host's is put back in place. What an 8-bit
layer of bitsandbytes holds beside its parameters goes along, which Module.to leaves behind.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

HOST = torch.device("cpu")


class Turns:
    """Groups of modules that are never on the `device` together. `moves` counts arrivals by name."""

    def __init__(self, groups: Mapping[str, Sequence[nn.Module]], device: torch.device) -> None:
        self.device = device
        self.moves: Counter[str] = Counter()
        self._groups: dict[str, list[_Movable]] = {}
        self._lock, self._holder = threading.Lock(), None
        for name, modules in groups.items():
            self.add(name, modules)

    def add(self, name: str, modules: Sequence[nn.Module]) -> None:
        """One more group; it leaves the device until its turn."""
        self._groups[name] = [_Movable(module) for module in modules]
        self.clear()

    def take(self, name: str) -> None:
        """Brings a group to the device, after the others have left; nothing moves where it is there already. If that
        fails, for want of memory, everything leaves."""
        if not self._groups:
            return
        # weights that move inside inference mode would be of use nowhere else
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if self._holder == name:
                return
            self._leave()
            try:
                for module in self._groups[name]:
                    module.arrive(self.device)
            except BaseException:
                self._leave()
                raise
            self._holder = name
            self.moves[name] += 1

    def clear(self) -> None:
        """Everything that takes turns leaves the device."""
        with self._lock, torch.inference_mode(False), torch.no_grad():
            self._leave()

    def _leave(self) -> None:
        self._holder = None
        for modules in self._groups.values():
            for module in modules:
                module.leave()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # else the blocks of those that left lie split under those that come


class _Movable:
    """One module. Copies of its weights are kept in host memory; a buffer is copied anew where it has been replaced."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._kept: dict[str, Tensor] = {}
        self._arrived: dict[str, Tensor] = {}  # buffers as they came to the device

    def leave(self) -> None:
        for name, weight, put in _weights(self.module):
            if name not in self._kept:
                self._kept[name] = _moved(weight, HOST)
            put(self._kept[name])
        for name, buffer, put in _buffers(self.module):
            if not any(buffer is known for known in (self._kept.get(name), self._arrived.get(name))):
                self._kept[name] = _moved(buffer, HOST)
            put(self._kept[name])
        self._arrived.clear()

    def arrive(self, device: torch.device) -> None:
        for _, weight, put in _weights(self.module):
            put(_moved(weight, device))
        for name, buffer, put in _buffers(self.module):
            self._arrived[name] = _moved(buffer, device)
            put(self._arrived[name])


Place = tuple[str, Tensor, Callable[[Tensor], None]]  # its name, what is there, and what puts another tensor there


def _weights(module: nn.Module) -> Iterator[Place]:
    layers = {id(part.weight): part for part in module.modules() if _is_8bit(part)}
    for name, parameter in module.named_parameters():
        layer = layers.get(id(parameter))
        if layer is None:
            yield name, parameter.data, partial(setattr, parameter, "data")
            continue
        if layer.weight.CB is not None:
            layer.init_8bit_state()  # as its first forward would; from then on `state` rules
        yield name, layer.state.CB, partial(_put_8bit, layer)
        yield f"{name} scale", layer.state.SCB, partial(setattr, layer.state, "SCB")


def _buffers(module: nn.Module) -> Iterator[Place]:
    for path, part in module.named_modules():
        for name, buffer in list(part.named_buffers(recurse=False)):
            yield f"{path}.{name}", buffer, partial(setattr, part, name)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device)


def _is_8bit(module: nn.Module) -> bool:
    """Whether it is a Linear8bitLt; told by its weight, so that bitsandbytes is only imported where it is used."""
    return type(getattr(module, "weight", None)).__name__ == "Int8Params"


def _put_8bit(layer: Any, tensor: Tensor) -> None:
    layer.state.CB = tensor
    layer.weight.data = tensor  # one tensor under two names, as bitsandbytes has it

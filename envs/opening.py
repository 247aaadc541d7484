"""Opening one environment by its name; every failure becomes one error that says whose it is."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from typing import Any

import gymnasium as gym

from arcturus.errors import ConfigError, EnvironmentProblem, nearest
from arcturus.extensions import told, took_part

REGISTERS = re.compile(r"register(_\w+)?_envs?")  # names of functions with which packages register their environments
PACKAGES = {"MinAtar": "minatar.gym", "MiniGrid": "minigrid", "BabyAI": "minigrid", "popgym": "popgym"}  # id prefix -> its module
ATARI_PACKAGES = ("ale_py", "shimmy", "atari_py")


def registered(env_id: str) -> str:
    """'module:Id-v0' -> 'Id-v0', its module imported so that it registers its environments; other ids as they are.

    Where importing is not enough, what the module calls register_envs() (or minigrid's register_minigrid_envs()) is called.
    """
    refuse_atari(env_id)
    module_name, _, name = env_id.rpartition(":")
    if not module_name:
        return name
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"{module_name!r} is not a module's name", where="--env", fix="write MODULE:ID, as in gymnasium.make")
    took_part.append(module_name)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as e:
        lacks = isinstance(e, ModuleNotFoundError) and f"{module_name}.".startswith(f"{e.name}.")
        raise (ConfigError if lacks else EnvironmentProblem)(
            f"{env_id} can't be opened: {e}" if lacks else f"{env_id}: importing {module_name} raised {told(e)}",
            where="--env",
            fix="MODULE:ID imports MODULE first: install it, or add its folder to PYTHONPATH" if lacks else "",
        ) from e
    if name not in gym.registry:
        for attribute in filter(REGISTERS.fullmatch, dir(module)):
            try:
                getattr(module, attribute)()
            except (Exception, SystemExit) as e:
                raise EnvironmentProblem(f"{env_id}: {module_name}.{attribute}() raised {told(e)}", where="--env") from e
    return name


def open_one(env_id: str, **options: Any) -> gym.Env:
    """gym.make, without its checker: what it would only warn of is checked at every step (checked.py).

    ConfigError for a name or options that nothing is known by; EnvironmentProblem for what the environment's own code raises.
    """
    name = registered(env_id)
    given = options.keys() - {"render_mode"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gym.make(name, disable_env_checker=True, **options)
    except gym.error.DependencyNotInstalled as e:
        raise EnvironmentProblem(f"{env_id} needs a package that is missing: {e}", where="--env") from e
    except (Exception, SystemExit) as e:
        if isinstance(e, gym.error.Error) and name not in gym.registry:
            raise unknown(env_id) from e
        if isinstance(e, TypeError) and "render_mode" in options and "render_mode" in str(e):
            raise ConfigError(f"{env_id} can't be filmed: its constructor takes no render_mode", where="--video") from e
        if given and isinstance(e, (TypeError, ValueError, KeyError, AssertionError)):
            raise refused(env_id, {k: options[k] for k in given}, e) from e
        raise EnvironmentProblem(
            f"{env_id}: its constructor raised {told(e)}",
            where="--env",
            fix="if only one instance may run at a time, use --num-envs 1 in training and in evaluate-agent: it never opens a second",
        ) from e


def refused(env_id: str, options: dict[str, Any], e: Exception) -> ConfigError:
    return ConfigError(f"{env_id} doesn't accept {str(options)[:200]}: {str(e)[:300]}", where="--env.options")


def unknown(env_id: str) -> ConfigError:
    from arcturus.envs.atari import games  # before the registry is read, as this registers ale-py's games

    known = [*games(), *(i for i in gym.registry if not i.startswith(("GymV", "phys2d/", "tabular/", "ALE/")))]
    known = [i for i in known if not str(gym.registry[i].entry_point).startswith(ATARI_PACKAGES) or i in games()]
    family = re.match(r"\w+", env_id.rpartition(":")[2])
    package = PACKAGES.get(family.group() if family else "")
    if package and package not in sys.modules:
        fix = f"if {package.partition('.')[0]} is installed, write its module too: {package}:{env_id}"
    else:
        fix = nearest(env_id, known, "environments")
        fix += f"; or your own environment: {env_id.rsplit('.', 1)[0]}:Id-v0" if "." in env_id else ""
    return ConfigError(f"unknown environment {env_id!r}", where="--env", fix=fix)


def atari_game(env_id: str) -> str | None:
    """The ALE/*-v5 id of the game that other libraries know by this name: PongNoFrameskip-v4, Pong-v5, Atari/Pong, pong ..."""
    from arcturus.envs.atari import games

    namespace, _, name = env_id.rpartition(":")[2].rpartition("/")
    if namespace.lower() not in ("", "ale", "atari"):
        return None
    name = re.sub(r"(-ram)?(NoFrameskip|Deterministic)?(-v\d+)?$", "", name)
    plain = re.sub(r"\W|_", "", name).lower()
    return next((i for i in games() if i[4:-3].lower() == plain), None) if plain else None


def refuse_atari(env_id: str) -> None:
    """A ConfigError for a game by a name of another library's, which would be played without protocol and frame stack, if at all."""
    module, _, name = env_id.rpartition(":")
    if module and module.partition(".")[0] not in ATARI_PACKAGES:
        return  # the user's own
    if not module and name in gym.registry and not str(gym.registry[name].entry_point).startswith(ATARI_PACKAGES):
        return
    game = atari_game(env_id)
    if game is not None and game != env_id:
        ram = " (pictures: agents here don't read the console's memory)" if "-ram" in env_id else ""
        raise ConfigError(f"{env_id} is another library's name for a game", where="--env", fix=f"use {game}{ram}")

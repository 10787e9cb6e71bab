"""Knowledge Modules for others, and what many share, from Python: export, import, serve, extractors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kmcli.api.given import Named, PathLike, names_of, recipe_options
from kmcli.api.shelf import Shelf
from kmcli.errors import KmError
from kmcli.types import ExportFormat

if TYPE_CHECKING:
    from kmcli.library.compressors import Kept
    from kmcli.library.extractors import Extractor
    from kmcli.workflows.compressor import TrainedCompressor
    from kmcli.workflows.extractor import TrainedExtractor
    from kmcli.workflows.importing import ImportReport
    from kmcli.workflows.serve import Served, Serving
    from kmcli.workflows.share import ExportReport


class Giving(Shelf):
    def export(
        self,
        *names: Named,
        format: ExportFormat = "gguf",
        quant: str | None = None,
        out: PathLike | None = None,
        force: bool = False,
        check: bool = True,
        converter: PathLike | None = None,
    ) -> ExportReport:
        """Write Knowledge Modules for other programs; several as their sum; without names the last one trained.

        format: "gguf", "gguf-lora", "hf", "peft" or "ollama". quant: of merged weights, such as "Q4_K_M"; None is F16.
        out: file or folder; None: a name of its own in the current folder. force: replace a file that km has not made.
        check: open the result and compare its answers. converter: llama.cpp's checkout.

        Returns `exported` (its `path`, `bytes`, `quant`) and what was `checked`. Raises NotFoundError without a module,
        UsageError for what cannot be, ResourceError without room, KmError where the result answers otherwise than the
        module.
        """
        from kmcli.workflows import share

        wish = share.Wish(
            format,
            quant,
            None if out is None else Path(out),
            force,
            check,
            None if converter is None else Path(converter),
        )
        with self._at_work() as house:
            report = share.export(house, names_of(names), wish)
        if report.checked is not None and not report.checked.skipped and not report.checked.passed:
            raise KmError(
                f"{report.exported.path} does not answer as the Knowledge Module does.", "Do not use it; see km doctor."
            )
        return report

    def import_(
        self, folder: PathLike, document: str | None = None, name: str | None = None, force: bool = False
    ) -> ImportReport:
        """Take a LoRA adapter in PEFT's format as a Knowledge Module.

        document: the name of one that is here, or a file to add; None: the adapter's model card. name: for one that is
        new. force: in place of the module it has. Raises NotFoundError, UsageError or KmError for what is no such
        adapter, ResourceError where its base cannot be had; then nothing has changed.
        """
        from kmcli.workflows import importing

        with self._at_work() as house:
            return importing.import_module(house, Path(folder), document, name, force)

    def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        key: str | None = None,
        on_ready: Callable[[Serving], None] = lambda serving: None,
    ) -> Served:
        """Answer OpenAI's clients until a signal ends it; only in the main thread. port: 0 for any that is free.

        key: what clients must send; a host other than this machine's wants one. on_ready: is told the `url`. Returns
        how many requests and tokens there were. Raises UsageError, and ResourceError for a port that is taken or a base
        that cannot be had.
        """
        from kmcli.serving import Limits
        from kmcli.workflows import serve

        with self._at_work() as house:
            return serve.serve(house, host, port, key, Limits(), on_ready)

    # --- compressors

    def compressor_train(
        self, *docs: Named, settings: Mapping[str, object] | None = None, restart: bool = False
    ) -> TrainedCompressor:
        """Train what compressed documents begin from, once for the base, on some documents or on all.

        settings: fields of a CompressorRecipe. Raises UsageError, KmError where there is too little to train on,
        InterruptedRun after KeyboardInterrupt.
        """
        from kmcli.workflows import compressor

        given = recipe_options(None, None, settings).settings
        with self._at_work() as house:
            return compressor.train(house, names_of(docs), given, restart)

    def compressor_ls(self) -> Sequence[Kept]:
        """The compressors there are, of whatever base."""
        from kmcli.workflows import compressor

        with self._at_work() as house:
            return compressor.ls(house)

    def compressor_rm(self) -> Kept:
        """Remove that of the base, without asking. Raises NotFoundError."""
        from kmcli.workflows import compressor

        with self._at_work() as house:
            return compressor.rm(house)

    # --- Knowledge Extractors

    def extractor_train(
        self,
        name: str,
        *docs: Named,
        questions: PathLike | None = None,
        passages: int = 0,
        modules: bool = True,
        settings: Mapping[str, object] | None = None,
        restart: bool = False,
    ) -> TrainedExtractor:
        """Train a second adapter, shared by documents, on questions about some of them.

        questions: a file whose lines name their document; None: held-out study material of `docs`. passages: retrieved
        ones in front of each question. modules: whether the documents' modules are on. settings: fields of an
        ExtractorRecipe. Raises UsageError, NotFoundError for documents without modules, InterruptedRun after
        KeyboardInterrupt.
        """
        from kmcli.workflows import extractor

        given = recipe_options(None, None, settings).settings
        options = extractor.ExtractorOptions(modules, passages, given)
        with self._at_work() as house:
            file = None if questions is None else Path(questions)
            return extractor.train(house, name, names_of(docs), file, options, restart)

    def extractor_ls(self) -> Sequence[Extractor]:
        """The extractors of the library, by name. `kmcli.open(extractor=NAME)` answers with one."""
        from kmcli.workflows import extractor

        with self._at_work() as house:
            return extractor.ls(house)

    def extractor_rm(self, name: str) -> Extractor:
        """Remove an extractor, without asking. Raises NotFoundError."""
        from kmcli.workflows import extractor

        with self._at_work() as house:
            return extractor.rm(house, name)

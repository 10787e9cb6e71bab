"""km: a local library of documents and their Knowledge Modules."""

__version__ = "0.1.0"

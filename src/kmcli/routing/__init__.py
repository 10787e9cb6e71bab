"""A question without a document: which documents may answer it, whether one does, and whether an answer is borne out.

| module    | what it says                                                                  |
|-----------|-------------------------------------------------------------------------------|
| `index`   | the documents of the library that have the question's words: BM25             |
| `gate`    | which of them answers, if any, by what their Knowledge Modules make the base believe |
| `support` | whether a passage supports an answer, and a document has what a question names |
"""

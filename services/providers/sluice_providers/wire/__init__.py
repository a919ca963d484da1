"""Wire formats: how a request is written and how a reply is read, without any input or output of their own."""

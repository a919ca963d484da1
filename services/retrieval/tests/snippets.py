"""Source in every language that is cut by its structure, and the symbols that search should see in it."""

from typing import Final, NamedTuple

from .snippets_of_code import CPP, CSHARP, GO, JAVA, JAVASCRIPT, KOTLIN, PHP, RUBY, RUST, TSX, TYPESCRIPT, C


class Snippet(NamedTuple):
    """A file, and the symbol of the chunk in which each of some of its lines lies: (a part of the line, symbol)."""

    source: str
    symbols: tuple[tuple[str, str], ...]


PROTOBUF = """\
syntax = "proto3";

package tea.v1;

// What is drunk.
message Cup {
  // The leaf {in braces}.
  string leaf = 1;
  message Size { int32 millilitres = 1; }
  Size size = 2;
}

service Kettle {
  // Makes it hot.
  rpc Boil(BoilRequest) returns (stream Steam);
  rpc Pour(PourRequest) returns (Cup) {
    option (google.api.http) = { post: "/v1/cups" body: "*" };
  }
}
"""

SHELL = """\
#!/bin/sh
set -eu

# Makes it hot.
boil() {
  until [ "$(degrees)" -ge "$1" ]; do
    heat
  done
}

function steep {
  sleep "$1" && echo "steeped for $1 seconds, strained and poured"
}

boil 100
"""

MAKE = """\
CC := cc

all: kettle cup

# Makes it.
kettle: kettle.o
\t$(CC) -o $@ $^

cup: cup.o
\t$(CC) -o $@ $^ -lleaf -lwater -lheat -lsugar -lmilk -llemon -lhoney
"""

SQL = """\
-- What is drunk.
CREATE TABLE tea.cups (
  id bigint PRIMARY KEY,

  leaf text NOT NULL
);

create or replace function pour(cup bigint) returns void as $$
begin
  update tea.cups set full = true where id = cup;
end
$$ language plpgsql;
"""

DOCKERFILE = """\
FROM alpine:3 AS build
RUN make kettle

# What is shipped.
FROM scratch
COPY --from=build /kettle /kettle
"""

YAML = """\
name: tea
jobs:
  boil:
    runs-on: fire
    steps:
      - run: "kettle --degrees 100 --and-wait-until-it-whistles"
  # Afterwards.
  steep:
    needs: boil
    steps:
      - run: "steep --minutes 2 --leaf green --strained --without-sugar"
"""

JSON = """\
{
  "name": "tea",
  "scripts": {
    "boil": "kettle --degrees 100 --and-wait-until-it-whistles",
    "steep": "steep --minutes 2 --leaf green --strained --without-sugar"
  },
  "private": true
}
"""

TOML = """\
[kettle]
volume = 2
name = "a kettle that whistles when the water in it boils"

[kettle.lid]
# How it shuts.
shuts = "so tightly that nothing of the steam gets out of it"
"""

RST = """\
===
Tea
===

How it is made.

Green
-----

Steep it short, in water that does not boil any more.

Black
-----

Steep it long::

    $ steep --minutes 4
"""

CSS = """\
/* What is drunk. */
.cup > .tea {
  color: #442200;
  border: 1px solid rgba(0, 0, 0, 0.5);
}

@media print {
  .kettle { display: none; visibility: hidden; position: absolute; }
}
"""

XML = """\
<project>
  <dependencies>
    <dependency id="kettle">a kettle that whistles when the water boils</dependency>
  </dependencies>
  <build>
    <plugin name="steep">steeps the leaves for as long as it takes</plugin>
  </build>
</project>
"""

SNIPPETS: Final = {
    "javascript": Snippet(JAVASCRIPT, (("Boils water", "Kettle"), ("async boil", "Kettle.boil"), ("Makes it", "Kettle.boil"), ("loud", "Kettle.whistle"), ("// Steeps", "steep"), ("exports.strain", "exports.strain"), ("function hidden", "hidden"), ("no such row", "lookUp"))),
    "typescript": Snippet(TYPESCRIPT, (("@Injectable", "Kettle"), ("constructor", "Kettle.constructor"), ("/** Steeps", "Kettle.steep"), ("@Timed", "Kettle.steep"), ("What is drunk", "Cup"), ("brew(leaf: string)", "brew"), ("make(leaf)", "brew"), ("door.unlock", "Tea.Room.open"), ("Black", "Colour"))),
    "tsx": Snippet(TSX, (("A cup on", "Cup"), ("<div", "Cup"), ("green tea", "Page"))),
    "go": Snippet(GO, (("boils water", "Kettle"), ("Volume", "Kettle"), ("Full bool", "Cup"), ("Pour(c", "Pourer"), ("makes it hot", "Kettle.Boil"), ("no fire", "Kettle.Boil"), ("func Steep", "Steep"))),
    "rust": Snippet(RUST, (("Boils water", "Kettle"), ("derive", "Kettle"), ("#[inline]", "Kettle.fmt"), ("write!", "Kettle.fmt"), ("door.unlock", "room.open"), ("the usual water", "Leaf.steep"), ("macro_rules", "brew"))),
    "java": Snippet(JAVA, (("Boils water", "Kettle"), ("@Component", "Kettle"), ("copyOf", "Kettle.Kettle"), ("@Override\n", "Kettle.boil"), ("fire.under", "Kettle.boil"), ("any colour", "Kettle.Colour.shown"))),
    "c": Snippet(C, (("Holds water", "kettle"), ("int full;", "cup_t"), ("define POUR", "POUR"), ("Makes it hot", "kettle_boil"), ("return k;", "kettle_boil"), ("very loud", "kettle_whistle"))),
    "cpp": Snippet(CPP, (("Boils water", "tea.room.Kettle"), ("class Kettle", "tea.room.Kettle"), ("explicit Kettle", "tea.room.Kettle.Kettle"), ("Makes it hot", "tea.room.Kettle.boil"), ("without sugar", "tea.room.Cup.name"), ("other.full_", "tea.room.Cup.operator=="), ("999999", "plain"))),
    "csharp": Snippet(CSHARP, (("Boils water", "Tea.Room.Kettle"), ("[Serializable]", "Tea.Room.Kettle"), ("leaf ??", "Tea.Room.Kettle.Kettle"), ("Makes it hot", "Tea.Room.Kettle.Boil"), ("fire.Under", "Tea.Room.Kettle.Boil"), ("factorOf", "Tea.Room.Kettle.Volume"))),
    "ruby": Snippet(RUBY, (("Boils water", "Tea.Kettle"), ("attr_reader", "Tea.Kettle"), ("Makes it hot", "Tea.Kettle.boil"), ("heat until", "Tea.Kettle.boil"), ("new(name", "Tea.Kettle.build"), ("@fire.out?", "Tea.Kettle.heat"), ("each_object", "Tea.Kettle.count"))),
    "php": Snippet(PHP, (("Boils water", "Tea.Room.Kettle"), ("#[Hot]", "Tea.Room.Kettle"), ("Makes it hot", "Tea.Room.Kettle.boil"), ("->heat()", "Tea.Room.Kettle.boil"), ("new Cup", "Tea.Room.steep"))),
    "kotlin": Snippet(KOTLIN, (("Boils water", "Kettle"), ("@Component", "Kettle"), ("Makes it hot", "Kettle.boil"), ("heatOne", "Kettle.boil"), ("fun of", "Kettle.Companion.of"), ("full = true", "fill"))),
    "protobuf": Snippet(PROTOBUF, (("What is drunk", "Cup"), ("string leaf", "Cup"), ("service Kettle", "Kettle"), ("Makes it hot", "Kettle.Boil"), ("/v1/cups", "Kettle.Pour"))),
    "shell": Snippet(SHELL, (("Makes it hot", "boil"), ("heat\n", "boil"), ("strained", "steep"))),
    "make": Snippet(MAKE, (("Makes it", "kettle"), ("-lleaf", "cup"))),
    "sql": Snippet(SQL, (("What is drunk", "tea.cups"), ("leaf text", "tea.cups"), ("update tea", "pour"))),
    "dockerfile": Snippet(DOCKERFILE, (("RUN make", "build"), ("What is shipped", "scratch"), ("COPY", "scratch"))),
    "yaml": Snippet(YAML, (("whistles", "jobs.boil"), ("Afterwards", "jobs.steep"), ("--minutes", "jobs.steep.steps"))),
    "json": Snippet(JSON, (("whistles", "scripts.boil"), ("--minutes", "scripts.steep"))),
    "toml": Snippet(TOML, (("volume", "kettle"), ("How it shuts", "kettle.lid"))),
    "rst": Snippet(RST, (("How it is made", "Tea"), ("short", "Tea > Green"), ("$ steep", "Tea > Black"))),
    "css": Snippet(CSS, (("What is drunk", ".cup > .tea"), ("visibility", "@media print"))),
    "xml": Snippet(XML, (("whistles", "project.dependencies"), ("as long as", "project.build"))),
}  # fmt: skip

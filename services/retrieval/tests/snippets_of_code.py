"""Source in every language that has a grammar."""

JAVASCRIPT = """\
import { pour } from "./pour.js";

/** Boils water. */
export class Kettle extends Vessel {
  static volume = 2;

  // Makes it hot.
  async boil(degrees) {
    await this.heat(degrees, { slowly: false });
  }

  whistle = () => {
    this.emit("whistle", { loud: true, twice: true });
  };
}

// Steeps.
export const steep = async (leaf, minutes) => {
  return pour(leaf, minutes);
};

exports.strain = function (cup) {
  return cup.filter((part) => !part.isLeaf);
};

(function () {
  function hidden(a) {
    return a + " is hidden in a function that wraps it";
  }
  const table = {
    rows: {
      green: "a leaf that is steeped for two minutes in water that does not boil any more",
      black: "a leaf that is steeped for four minutes in water that still boils in the kettle",
    },
    lookUp: function (key) {
      return table.rows[key] ?? "no such row in the table, nor in any other table of the house";
    },
  };
})();
"""

TYPESCRIPT = """\
@Injectable({ root: true })
export abstract class Kettle<T extends Leaf> {
  constructor(private readonly leaf: T, private readonly name: string) {}

  /** Steeps. */
  @Timed()
  public steep(minutes: number): Promise<Cup<T>> {
    return this.pour(minutes, { strained: true });
  }
}

/** What is drunk. */
export interface Cup<T> {
  leaf: T;
  pour(): void;
}

export function brew(leaf: string): Cup<string>;
export function brew(leaf: Leaf): Cup<Leaf>;
export function brew(leaf: unknown): Cup<unknown> {
  return make(leaf);
}

namespace Tea.Room {
  export function open(door: Door): void {
    door.unlock("with the key that hangs beside it");
  }
}

export enum Colour {
  Green,
  Black,
}
"""

TSX = """\
type Props = { name: string };

/** A cup on the page. */
export const Cup = ({ name }: Props) => {
  return <div className="cup">{name}</div>;
};

export default function Page() {
  return <Cup name="green tea, steeped for two minutes" />;
}
"""

GO = """\
package tea

import "fmt"

// Kettle boils water.
type Kettle[T any] struct {
	Volume int
}

type (
	// Cup is drunk from.
	Cup struct{ Full bool }
	Pourer interface {
		Pour(c *Cup) error
	}
)

// Boil makes it hot.
func (k *Kettle[T]) Boil(degrees int) error {
	return fmt.Errorf("no fire under %v at %d", k, degrees)
}

func Steep(leaf string) (*Cup, error) {
	return &Cup{Full: leaf != ""}, nil
}
"""

RUST = """\
use std::fmt;

/// Boils water.
#[derive(Debug, Clone)]
pub struct Kettle<'a, T> {
    name: &'a str,
    leaf: T,
}

impl<'a, T: Leaf> fmt::Display for Kettle<'a, T> {
    /// Writes it.
    #[inline]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kettle {} of {}", self.name, self.leaf)
    }
}

pub mod room {
    pub fn open(door: &Door) -> Result<(), Error> {
        door.unlock("with the key that hangs beside it")
    }
}

pub trait Leaf {
    fn name(&self) -> String;
    fn steep(&self, minutes: u32) -> Cup {
        Cup::new(self.name(), minutes, "the usual water")
    }
}

macro_rules! brew {
    ($leaf:expr) => { Kettle::new($leaf).boil() };
}
"""

JAVA = """\
package com.example.tea;

import java.util.List;

/** Boils water. */
@Component
public class Kettle<T extends Leaf> extends Vessel implements Hot {
    private final List<T> leaves;

    public Kettle(List<T> leaves) {
        this.leaves = List.copyOf(leaves);
    }

    /** Makes it hot. */
    @Override
    public void boil(int degrees) throws Burnt {
        fire.under(this).until(t -> t.degrees() >= degrees);
    }

    enum Colour {
        GREEN { @Override String shown() { return "a green that is nearly yellow"; } };

        String shown() {
            return "any colour that tea may have in a cup";
        }
    }
}

interface Hot {
    void boil(int degrees) throws Burnt;
}
"""

C = """\
#ifndef KETTLE_H
#define KETTLE_H
#include <stdio.h>

/* Holds water. */
struct kettle {
    int volume;
    char *name;
};

typedef struct {
    int full;
} cup_t;

#define POUR(k, c) do { (c)->full = (k)->volume > 0; } while (0)

/* Makes it hot. */
static struct kettle *kettle_boil(struct kettle *k, int degrees)
{
    printf("%s at %d degrees\\n", k->name, degrees);
    return k;
}

#ifdef WITH_WHISTLE
void kettle_whistle(struct kettle *k) {
    fputs("a long and very loud whistle", stderr);
}
#endif
#endif
"""

CPP = """\
#include <string>

namespace tea::room {

/// Boils water.
template <typename T>
class Kettle : public Vessel {
 public:
  explicit Kettle(T leaf) : leaf_(std::move(leaf)), degrees_(20) {}

  // Makes it hot.
  void boil(int degrees) override {
    while (degrees_ < degrees) heat_one_degree_more();
  }

 private:
  T leaf_;
};

std::string Cup::name() const {
  return "a cup of " + leaf_ + " without sugar or milk";
}

bool Cup<T>::operator==(const Cup& other) const {
  return leaf_ == other.leaf_ && full_ == other.full_;
}

}  // namespace tea::room

extern "C" {
int plain(int a) {
  return a + 1000000 - 999999 + 1000000 - 1000000;
}
}
"""

CSHARP = """\
using System;

namespace Tea.Room;

/// <summary>Boils water.</summary>
[Serializable]
public class Kettle<T> : Vessel where T : Leaf
{
    private readonly T leaf;

    public Kettle(T leaf) { this.leaf = leaf ?? throw new ArgumentNullException(nameof(leaf)); }

    /// <summary>Makes it hot.</summary>
    [Obsolete]
    public async Task Boil(int degrees)
    {
        await fire.Under(this).Until(t => t.Degrees >= degrees);
    }

    public int Volume
    {
        get { return this.volume * this.factorOfTheUnitThatIsShown; }
    }
}

public interface IHot
{
    Task Boil(int degrees);
}
"""

RUBY = """\
require "set"

module Tea
  # Boils water.
  class Kettle < Vessel
    attr_reader :volume

    # Makes it hot.
    def boil(degrees)
      heat until self.degrees >= degrees && !broken?
    end

    def self.build(name)
      new(name, volume: 2, colour: "black", lid: true)
    end

    private def heat
      @degrees += 1 unless @fire.nil? || @fire.out?
    end

    class << self
      def count
        ObjectSpace.each_object(self).count { |k| k.lid }
      end
    end
  end
end
"""

PHP = """\
<?php

namespace Tea\\Room;

use Tea\\Leaf;

/** Boils water. */
#[Hot]
final class Kettle extends Vessel implements Whistles
{
    private int $degrees = 20;

    /** Makes it hot. */
    public function boil(int $degrees): void
    {
        while ($this->degrees < $degrees) { $this->heat(); }
    }
}

function steep(Leaf $leaf, int $minutes): Cup
{
    return new Cup($leaf, $minutes, strained: true);
}
"""

KOTLIN = """\
package tea.room

import tea.Leaf

/** Boils water. */
@Component
class Kettle<T : Leaf>(val leaf: T) : Vessel() {
    var degrees = 20

    /** Makes it hot. */
    override suspend fun boil(degrees: Int) {
        while (this.degrees < degrees) heatOneDegreeMore()
    }

    companion object {
        fun of(name: String): Kettle<Leaf> = Kettle(Leaf.named(name, strict = true))
    }
}

fun Cup.fill(kettle: Kettle<Leaf>): Cup {
    return copy(full = true, leaf = kettle.leaf)
}
"""

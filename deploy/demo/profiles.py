"""
Makes a town of people who do not exist, with posts in Chinese and English, for the demo and for tests.

The same seed gives the same file, byte for byte. The format is in docs/profiles.md; put your own file in its place with
`make demo PROFILES=path`.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

CITIES = {
    "Chengdu": 14, "Chongqing": 12, "Xi'an": 9, "Urumqi": 6, "Lanzhou": 4, "Kunming": 7, "Beijing": 16, "Shanghai": 18,
    "Guangzhou": 12, "Wuhan": 9, "Hangzhou": 8, "Harbin": 5,
}  # fmt: skip
NEWEST_POST = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Passion:
    """Something that people care about: what they follow, join and buy, and what they write when they do."""

    topics: tuple[str, ...]
    communities: tuple[str, ...]
    brands: tuple[str, ...]
    posts: tuple[str, ...]
    words: tuple[str, ...]


# Each post takes one of its passion's words, so that words differ while the sense stays.
PASSIONS = {
    "outdoors": Passion(
        topics=("off-road", "road-trips", "camping", "hiking"),
        communities=("weekend-drivers", "desert-club", "roof-tent-owners"),
        brands=("tianshan", "great-wall", "jeep", "decathlon", "naturehike"),
        posts=(
            "周末又去{}了，后备箱永远不够大",
            "有没有人一起{}？求推荐路线",
            "带孩子{}的第三年，想换一辆能装的车",
            "Planning a {} for the long weekend, any tips?",
            "Our old sedan did not survive the {}. Time for something with clearance.",
            "这条{}路线太美了，就是底盘刮得心疼",
        ),
        words=("露营", "自驾", "越野", "穿越沙漠", "road trip", "camping trip", "off-road weekend"),
    ),
    "family": Passion(
        topics=("family-cars", "parenting", "schools"),
        communities=("young-parents", "school-run"),
        brands=("tianshan", "volvo", "ikea", "lego"),
        posts=(
            "二胎之后最大的感受：{}真的太重要了",
            "求问三排座的{}哪家靠谱",
            "Two child seats and a pram: looking for a {} that fits all of it",
            "今天试驾了一款{}，孩子在后排睡着了",
            "School run again. A {} would change my mornings.",
        ),
        words=("七座车", "家用SUV", "安全座椅", "family SUV", "seven-seater"),
    ),
    "cars": Passion(
        topics=("cars", "ev", "motorsport"),
        communities=("car-meet", "ev-owners"),
        brands=("byd", "tesla", "nio", "toyota", "tianshan"),
        posts=(
            "{}的续航到底虚标多少",
            "刚提{}，有问必答",
            "Test drove the new {} today, mixed feelings",
            "{}的智驾又更新了，实测一下",
        ),
        words=("新能源", "SUV", "混动", "EV", "hybrid"),
    ),
    "food": Passion(
        topics=("food", "baking", "tea"),
        communities=("hotpot-maps", "home-cooks"),
        brands=("haidilao", "luckin", "lao-gan-ma"),
        posts=("这家{}排队两小时也值", "在家做{}翻车实录", "Best {} in town, fight me", "加班后的{}治愈一切"),
        words=("火锅", "串串", "奶茶", "noodles", "hotpot"),
    ),
    "games": Passion(
        topics=("games", "esports", "anime"),
        communities=("ranked-queue", "figure-collectors"),
        brands=("nintendo", "mihoyo", "razer"),
        posts=("{}连跪一晚上", "今天抽到了{}，欧气分享", "New {} patch is a disaster", "有人一起打{}吗"),
        words=("排位", "手办", "ranked", "gacha"),
    ),
    "work": Passion(
        topics=("careers", "startups", "office-life"),
        communities=("job-hunters", "night-shift"),
        brands=("lenovo", "feishu", "starbucks"),
        posts=("第三轮{}终于过了", "关于{}，说点真话", "Any advice for a first {}?", "今天的{}开了四个小时"),
        words=("面试", "周会", "interview", "performance review"),
    ),
    "beauty": Passion(
        topics=("skincare", "fashion", "photography"),
        communities=("ootd", "empties"),
        brands=("perfect-diary", "uniqlo", "canon"),
        posts=(
            "空瓶记：{}回购第五次",
            "{}避雷，烂脸警告",
            "My {} routine in under five minutes",
            "秋冬{}分享",
        ),
        words=("面霜", "穿搭", "skincare", "makeup"),
    ),
    "sport": Passion(
        topics=("running", "football", "fitness"),
        communities=("dawn-runners", "sunday-league"),
        brands=("li-ning", "nike", "keep"),
        posts=("第一个{}完赛！", "{}第三十天打卡", "Legs gone after {}", "周日{}缺两个人"),
        words=("半马", "健身", "five-a-side", "half marathon"),
    ),
}
WEIGHTS = {
    "outdoors": 9,
    "family": 12,
    "cars": 10,
    "food": 22,
    "games": 18,
    "work": 14,
    "beauty": 15,
    "sport": 14,
}


def people(count: int, seed: int) -> Iterator[dict[str, object]]:
    """Yield `count` profiles, ready for JSON Lines."""
    random = Random(seed)  # noqa: S311 -- repeatable, not secret
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    for number in range(count):
        passions = [
            PASSIONS[name] for name in dict.fromkeys(random.choices(names, weights, k=random.randint(1, 3)))
        ]
        yield {
            "user": f"u{number:06d}",
            "gender": random.choice("fm"),
            "age": min(80, max(14, round(random.gauss(33, 11)))),
            "city": random.choices(list(CITIES), list(CITIES.values()))[0],
            "topics": sorted(
                {topic for p in passions for topic in random.sample(p.topics, random.randint(1, 2))}
            ),
            "communities": sorted({random.choice(p.communities) for p in passions if random.random() < 0.6}),
            "brands": sorted({random.choice(p.brands) for p in passions if random.random() < 0.5}),
            "posts": [
                {
                    "id": f"u{number:06d}-{index}",
                    "time": (NEWEST_POST - timedelta(minutes=random.randint(0, 200_000))).isoformat(),
                    "text": (passion := random.choice(passions))
                    and random.choice(passion.posts).format(random.choice(passion.words)),
                }
                for index in range(random.randint(0, 5))
            ],
        }


def write(path: Path, *, count: int = 20_000, seed: int = 20261101) -> None:
    """Write the town to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="utf-8") as file:
        for person in people(count, seed):
            file.write(json.dumps(person, ensure_ascii=False, separators=(",", ":")) + "\n")
    fresh.rename(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=20261101)
    arguments = parser.parse_args()
    write(arguments.path, count=arguments.count, seed=arguments.seed)

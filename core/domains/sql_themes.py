"""What the invented tables are about: themes, the columns they may have, and the values these may hold.

Train and test share no theme and no table name; columns come from common pools. A theme is one line:
plural, singular, kind of name (P person, T thing or place, W a work's title), columns, and after "<" the
theme whose row it may belong to.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Split = Literal["train", "test"]


class Theme(NamedTuple):
    table: str
    singular: str
    label: str  # the column that names a row
    names: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    parent: str | None


class Number(NamedTuple):
    """low, high: range of values; real: one decimal. The rest: words that compare by this column, if there are any."""

    low: int
    high: int
    real: bool = False
    more: str = ""
    less: str = ""
    most: str = ""
    least: str = ""


NUMBERS = {
    "age": Number(18, 75, False, "older", "younger", "oldest", "youngest"),
    "salary": Number(20, 99, False, "", "", "best paid", "worst paid"),
    "income": Number(15, 95),
    "weight": Number(20, 400, False, "heavier", "lighter", "heaviest", "lightest"),
    "height": Number(30, 250, False, "taller", "shorter", "tallest", "shortest"),
    "length": Number(20, 900, False, "longer", "shorter", "longest", "shortest"),
    "width": Number(10, 300, False, "wider", "narrower", "widest", "narrowest"),
    "depth": Number(5, 300, False, "deeper", "shallower", "deepest", "shallowest"),
    "area": Number(20, 990, False, "larger", "smaller", "largest", "smallest"),
    "speed": Number(20, 300, False, "faster", "slower", "fastest", "slowest"),
    "price": Number(5, 500, False, "more expensive", "cheaper", "most expensive", "cheapest"),
    "cost": Number(10, 900),
    "budget": Number(10, 900),
    "revenue": Number(10, 990),
    "rent": Number(200, 990),
    "balance": Number(50, 990),
    "year": Number(1950, 2023, False, "newer", "older", "newest", "oldest"),
    "founded": Number(1850, 2015),
    "birth_year": Number(1930, 2000),
    "rating": Number(10, 99, True, "", "", "best rated", "worst rated"),
    "score": Number(10, 99),
    "experience": Number(1, 40, False, "", "", "most experienced", "least experienced"),
    "duration": Number(20, 240, False, "longer", "shorter", "longest", "shortest"),
    "pages": Number(80, 900),
    "seats": Number(10, 500),
    "rooms": Number(10, 300),
    "beds": Number(20, 600),
    "floors": Number(2, 90),
    "students": Number(100, 990),
    "staff": Number(10, 400),
    "visitors": Number(50, 990),
    "members": Number(10, 500),
    "wins": Number(1, 60),
    "goals": Number(1, 60),
    "awards": Number(1, 40),
    "points": Number(5, 200),
    "sales": Number(10, 990),
    "plays": Number(10, 990),
    "stock": Number(5, 400),
    "calories": Number(50, 900),
    "credits": Number(2, 60),
    "hours": Number(5, 300),
    "distance": Number(10, 600),
    "power": Number(20, 600, False, "more powerful", "less powerful", "most powerful", "least powerful"),
    "storage": Number(16, 512),
    "capacity": Number(20, 900),
    "temperature": Number(30, 300, False, "hotter", "colder", "hottest", "coldest"),
}

TEXTS = {
    "city": ("Paris", "London", "Tokyo", "Madrid", "Cairo", "Oslo", "Lima", "Boston", "Dublin", "Rome"),
    "country": ("France", "Japan", "Brazil", "Canada", "Spain", "India", "Kenya", "Norway", "Italy", "Chile"),
    "nationality": ("French", "Japanese", "Brazilian", "Canadian", "Spanish", "Indian", "Kenyan", "Italian"),
    "region": ("north", "south", "east", "west", "center", "coast"),
    "color": ("red", "blue", "green", "black", "white", "yellow", "brown", "gray"),
    "material": ("wood", "steel", "stone", "glass", "copper", "plastic"),
    "size": ("small", "medium", "large", "tiny", "huge"),
    "status": ("active", "closed", "pending", "new", "retired"),
    "season": ("spring", "summer", "autumn", "winter"),
    "level": ("basic", "middle", "advanced", "expert"),
    "genre": ("drama", "comedy", "horror", "fantasy", "mystery", "romance"),
    "music": ("rock", "jazz", "pop", "folk", "blues", "soul"),
    "style": ("modern", "classic", "baroque", "abstract", "gothic"),
    "subject": ("math", "history", "biology", "art", "physics", "music"),
    "specialty": ("heart", "skin", "eyes", "bones", "children"),
    "shift": ("day", "night", "evening", "weekend"),
    "role": ("manager", "clerk", "engineer", "guard", "analyst"),
    "rank": ("junior", "senior", "chief", "trainee", "master"),
    "position": ("keeper", "defender", "forward", "wing"),
    "category": ("food", "clothes", "sport", "garden", "office"),
    "cuisine": ("Italian", "Thai", "Mexican", "Indian", "Greek", "French"),
    "diet": ("meat", "plants", "insects", "fish", "seeds"),
    "habitat": ("forest", "desert", "ocean", "swamp", "tundra"),
    "brand": ("Acme", "Nova", "Orion", "Zenith", "Vega", "Titan"),
    "fuel": ("gas", "diesel", "electric", "hybrid", "steam"),
    "language": ("English", "French", "German", "Arabic", "Hindi", "Korean"),
    "month": ("March", "April", "June", "July", "August", "October"),
    "flavor": ("sweet", "sour", "salty", "bitter", "mild", "hot"),
}

PEOPLE = [
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Hugo",
    "Irene",
    "Jack",
    "Karen",
    "Leo",
    "Maria",
    "Nick",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
    "Victor",
    "Wendy",
    "Adam",
    "Bella",
    "Chris",
    "Diana",
    "Eric",
    "Fiona",
    "George",
    "Helen",
    "Ivan",
    "Julia",
    "Kevin",
    "Laura",
    "Mark",
    "Nina",
    "Oscar",
    "Peter",
    "Rita",
    "Simon",
    "Tara",
]
THINGS = [
    "Alba",
    "Bravo",
    "Corona",
    "Delta",
    "Echo",
    "Falcon",
    "Gamma",
    "Harbor",
    "Indigo",
    "Jade",
    "Karma",
    "Lotus",
    "Metro",
    "Nimbus",
    "Onyx",
    "Prism",
    "Quartz",
    "Raven",
    "Summit",
    "Tempo",
    "Union",
    "Vista",
    "Willow",
    "Apex",
    "Beacon",
    "Cedar",
    "Drift",
    "Ember",
    "Forge",
    "Glory",
    "Haven",
    "Iris",
    "Juno",
    "Knight",
    "Lunar",
    "Maple",
]
TITLES = [
    f"{a} {b}"
    for a in ("Silent", "Golden", "Lost", "Last", "Dark", "Wild")
    for b in ("River", "Moon", "Road", "City", "Winter", "Garden")
]
NAMES = {"P": ("name", tuple(PEOPLE)), "T": ("name", tuple(THINGS)), "W": ("title", tuple(TITLES))}

TRAIN = """
owners owner P city country age income
dogs dog P color size status age weight price height < owners
cats cat P color size status age weight price < owners
teams team T city country region wins budget founded
players player P position nationality city age height goals salary < teams
coaches coach P nationality level age salary experience wins < teams
authors author P country language nationality birth_year awards age
books book W genre language pages price year rating sales < authors
studios studio T city country status founded budget staff
movies movie W genre language year rating duration budget < studios
singers singer P country music nationality age awards birth_year
songs song W music language duration year plays rating < singers
schools school T city region level students founded budget
teachers teacher P subject level city age salary experience < schools
pupils pupil P city level nationality age score height < schools
hospitals hospital T city region status beds staff founded rating
doctors doctor P specialty shift nationality age salary experience < hospitals
nurses nurse P shift rank city age salary experience < hospitals
companies company T city country status revenue staff founded
workers worker P role city shift age salary experience < companies
products product T category color size price weight stock rating < companies
farms farm T region country status area founded staff
cows cow P color size status age weight price < farms
horses horse P color size status age height speed price < farms
airlines airline T country status region founded rating staff
planes plane T brand status color speed seats year weight length < airlines
pilots pilot P nationality rank city age salary hours < airlines
museums museum T city country style visitors founded rating
paintings painting W style color material year price width height < museums
hotels hotel T city country style rooms price founded rating
guests guest P country language city age points balance < hotels
restaurants restaurant T city cuisine style rating seats founded
dishes dish W flavor season size price calories rating < restaurants
cooks cook P cuisine rank nationality age salary experience < restaurants
libraries library T city region status visitors founded staff
readers reader P city language status age points birth_year < libraries
banks bank T city country status revenue founded staff
accounts account P status level city balance points year < banks
gardens garden T city region style area visitors founded
flowers flower T color season size height price < gardens
zoos zoo T city country status area visitors staff
animals animal P diet habitat size age weight speed < zoos
ships ship T country status fuel speed length weight year
sailors sailor P rank nationality shift age salary experience < ships
trains train T fuel color status speed seats year length
races race W city country season distance year budget
cyclists cyclist P nationality level status age weight wins < races
games game W genre language status price rating year sales
coders coder P role city level age salary experience < games
festivals festival W city month season year visitors budget
bands band T music country status year members awards < festivals
mountains mountain T country region habitat height temperature visitors
rivers river T country region status length depth width
lakes lake T country region habitat depth area length
bridges bridge T city material status length height year cost
buildings building T city style material height floors year cost
apartments apartment T size status style rooms area rent < buildings
tenants tenant P nationality status role age income points < buildings
phones phone T brand color size price storage weight year
laptops laptop T brand color material price storage weight year
shops shop T city category status sales staff area founded
toys toy T color material size price weight stock rating < shops
customers customer P city status language age points income < shops
recipes recipe W cuisine flavor season duration calories rating
courses course W subject level language hours credits price
professors professor P subject rank nationality age salary awards < courses
wines wine T country color flavor price year rating stock
bikes bike T brand color material price weight year speed
cars car T brand color fuel price power speed year
drivers driver P nationality level city age wins salary points < cars
houses house T city style material price area rooms year
offices office T city size status rent area floors
clients client P country status role age balance points < offices
newspapers newspaper T language city status sales founded staff price
reporters reporter P subject language rank age salary awards < newspapers
"""

TEST = """
orchestras orchestra T city country music budget founded members
violinists violinist P nationality rank style age salary experience < orchestras
labs lab T city country subject budget founded staff
robots robot T color brand status height weight speed power < labs
scientists scientist P subject nationality rank age awards salary < labs
castles castle T country style region visitors area founded
knights knight P rank color region age height wins < castles
agencies agency T country city status budget founded staff
satellites satellite T country fuel status weight speed year power < agencies
astronauts astronaut P nationality role rank age hours birth_year < agencies
podcasts podcast W genre language subject rating plays year
episodes episode W subject month language duration plays rating < podcasts
bakeries bakery T city region style staff founded rating
cakes cake T flavor color size price weight calories < bakeries
depots depot T city region status capacity staff area
trucks truck T brand fuel color weight speed year length < depots
parcels parcel T size status country weight price width < depots
mines mine T country region material depth founded staff
miners miner P shift rank nationality age salary experience < mines
poets poet P nationality language style age awards birth_year
poems poem W language genre style year rating plays < poets
islands island T country region habitat area visitors temperature
volcanoes volcano T status country region height temperature depth < islands
clubs club T city country level members founded budget
gymnasts gymnast P nationality level city age height score < clubs
factories factory T city region fuel capacity staff founded
machines machine T brand material status price weight power < factories
theaters theater T city style status seats founded visitors
actors actor P nationality genre role age awards salary < theaters
"""


def _read(text: str) -> dict[str, Theme]:
    themes = {}
    for line in text.strip().splitlines():
        own, _, parent = line.partition(" < ")
        table, singular, kind, *columns = own.split()
        label, names = NAMES[kind]
        texts = tuple(c for c in columns if c in TEXTS)
        numbers = tuple(c for c in columns if c in NUMBERS)
        assert len(texts) + len(numbers) == len(columns), (table, set(columns) - set(texts) - set(numbers))
        themes[table] = Theme(table, singular, label, names, texts, numbers, parent or None)
    return themes


THEMES: dict[Split, dict[str, Theme]] = {"train": _read(TRAIN), "test": _read(TEST)}

"""The page's words: what a visitor reads that is not a picture. Mistakes have their sentences in request.py."""

from __future__ import annotations

TITLE = "squeeze"
TAGLINE = "The words say where, the picture says who, and you set the balance."

# Name, what happens in the stage, for each of balance.STAGES.
STAGES: tuple[tuple[str, str], ...] = (
    ("Meaning", "first steps: place, pose, dress"),
    ("Both", "middle steps: form"),
    ("Identity", "last steps: colour and pattern"),
)
BALANCE = "What leads in each stage: 0 semantics, 1 identity, 0.5 both in full."
CUSTOM = "custom"  # what the preset row says when the sliders match no preset

PROMPTS: dict[str, tuple[str, ...]] = {
    "plush": (
        "on the beach, with a red hat",
        "in the forest, close up",
        "with a hat of its own colour",
        "in the snow, facing away",
    ),
}
PLACEHOLDER = "Where should it be? Which way does it face? What does it wear?"
UPLOAD = "Drop a picture\nor click"

CROP = "Crop"
CROPPING = "The part of the picture that the models get"
EDGES = ("Left edge", "Top edge", "Right edge", "Bottom edge")
CROP_HINT = "Drag the frame or its edges, or move an edge with the arrow keys."
CROP_BUTTONS = {"whole": "Whole picture", "cancel": "Cancel", "use": "Use this part"}
WHOLE_GONE = "The picture to crop is no longer here. Give it again."
ANOTHER = "Subject {number}"
UPLOAD_ANOTHER = "One more, if you like"

EMPTY = "Pick a toy, say where it should be, and watch it appear."
READY = "Ready when you are."
QUEUED = "Asking for a turn."
NEXT = "You are next in line{left}."
WAITING = "You are number {place} in line{left}."
LEFT = ", about {seconds} s"
FULL = (
    "{room} visitors are waiting already, and the line takes no more. Try again in a minute; nothing you set is lost."
)
WAITS_ALREADY = "One of your runs is waiting in line already. Wait for its turn, or stop it first."
READING = "Reading the picture and the prompt."
STEP = "Step {step} of {steps} · {stage} · t = {t:.2f} · {left}"
DONE = "Done in {seconds:.1f} s · seed {seed}"
STOPPING = "Stopping after this step."
STOPPED = "Stopped. The last preview stays; Generate starts anew."
FAILED = "The run broke off: something went wrong on the server. Try again; nothing you set is lost."
LEFT_LINE = "Stopped before the first step. Generate asks for a turn again."
UNKNOWN = "This model does not know: {words}"
MORE = "and {number} more"
NOT_FETCHED = "No picture could be fetched from {url}. Use an address that anybody can open, or send the file itself."
TOO_LARGE = "What lies at {url} is larger than {limit} MB. Shrink it and retry."
TOO_SLOW = "The picture at {url} did not come within {limit} s. Send the file itself."
GONE = "The example is gone from the folder. Reload the page."

FILM = "Every step of the run"
FRAME = "Step {step} of {steps}, {stage}"
NO_FILM = "Every step of a run appears here: point at one to see it, choose one to branch from."
BRANCH = "Branch"
BRANCH_FROM = "Branch after step {step}"
CHOSEN = "Steps 1 to {step} stay, prompt and settings too. Set the balance of the {rest} that follow, then branch."
LAST_STEP = "Nothing follows the last step. Choose an earlier one to branch from."
COMPARE = ("The picture before", "The latest")
NO_COMPARE = "Two pictures are compared here: the latest, and the one before it."
RECIPE_FILE = "A PNG of ours, or a recipe as JSON"
RECIPE_TEXT = "Or paste a recipe's JSON"
RECIPE_FORMS = (("link", "Link"), ("command", "Command line"), ("client", "Python"), ("json", "JSON"))
NO_FORMS = "The recipe of the latest picture stands here: as a link, a command, Python and JSON."
NO_RECIPE = "There is no recipe. Drop a PNG or JSON file, paste a recipe's JSON, or generate a picture first."
OTHER_PROFILE = "This recipe is of profile {theirs}; this page runs {ours}. Start it with --profile {theirs}."
NO_REFERENCE = "Give the picture with the content hash {digest}. If it was cropped, give the cropped one."
NO_SUBJECT = "Its recipe names none: give any."
WITHOUT_SUBJECT = "The settings are back, but not the subject."
NOT_VERIFIED = "Verifying needs the subject."
SAME_PICTURE = "This is the picture the recipe was made with. Ready when you are."
OTHER_PICTURE = "This is not the picture the recipe was made with, so the result will differ."
RESTORED = "The recipe is back. Generate draws its picture again."
RELOADED = "The page was loaded anew. What you had set is back."
IDENTICAL = "Identical: the same picture, pixel for pixel."
NOT_IDENTICAL = "Not identical."
COPIED = "The picture is nearly the one you gave."
OFFER = "Set the preset {preset}"
HISTORY = "Pictures of this visit"
BRANCHED = "branched after step {step}"
NO_HISTORY = "Pictures you make are listed here, to come back to. After a reload their recipes stay."

ABOUT_TITLE: dict[str, str] = {"plush": "What this model can and cannot do"}
ABOUT: dict[str, str] = {
    "plush": """
This is the whole method at toy size. The model knows **one world, plush toys**, and draws **128 × 128 pixels**.

- **It was shown** toys with a body in one of ten colours, a belly, a pattern (plain, stripes, spots or patches), ears
  and a tail, in eight places (beach, snow, forest, desert, city at night, meadow, room, sea), facing eight ways, near
  or far, with a hat in one of ten colours or none. A prompt can name any of it, or *a hat of its own colour*.
- **It can, so far,** put the toy into the right place, near or far, facing the right way, in its own colours and with
  the right hat. It is still learning: one pattern in seventeen, one pair of ears in eight and one tail in four, from
  behind every other one, is another toy's, outlines are soft, and a dark toy at night is hard to make out. The README
  has the figures.
- **It looks for the toy itself:** off the middle or far away, two thirds as large as a near one, the language model
  gets it as if it stood near. Crop a picture whose toy is smaller still.
- **What a prompt leaves open,** it chooses by the seed, a hat too: write *without a hat*.
- **It cannot** draw anything else. A photo of your cat gives the nearest toy. Words it never learned are named under
  the picture.

Each generation runs through three stages. What a language model understands of prompt and picture (*semantics*) and the
picture's own details (*identity*) take part in each as far as its slider says. Every PNG carries its settings.
""",
}
